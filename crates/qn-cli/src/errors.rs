//! Errors of libraries in words for a user: their fields become options, and what to do about it is added.

use std::error::Error as StdError;

use qn_data::DataError;
use qn_model::ModelError;
use qn_run::{Invalid, RunError};
use qn_study::StudyError;
use qn_train::TrainError;

use crate::interrupt::Interrupt;
use crate::talk::print_error;

/// Prints the error, if there is one, and chooses the exit code: the signal's where one ended the work, 2 for wrong usage,
/// 1 for everything else.
pub(crate) fn report(result: anyhow::Result<u8>, interrupt: Option<&Interrupt>) -> u8 {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    print_error(words(&error));
    let stopped = matches!(error.downcast_ref(), Some(TrainError::Interrupted { .. }))
        || matches!(error.downcast_ref(), Some(StudyError::Stopped | StudyError::Kept(_)));
    match interrupt.and_then(Interrupt::exit_code).filter(|_| stopped) {
        Some(code) => code,
        None if is_usage(&error) => 2,
        None => 1,
    }
}

fn is_usage(error: &anyhow::Error) -> bool {
    let of_data = matches!(
        error.downcast_ref(),
        Some(
            DataError::Samples { .. }
                | DataError::UnknownDataset(_)
                | DataError::Normalise { .. }
                | DataError::Misfit(_)
                | DataError::Architecture(_)
        )
    );
    let too_few = |fields: &[(&str, Option<String>)]| fields.iter().any(|(name, _)| *name == "k");
    of_data
        || error.is::<Invalid>()
        || error.is::<ModelError>()
        || matches!(error.downcast_ref(), Some(RunError::Exists(_)))
        || matches!(error.downcast_ref(), Some(StudyError::Needs { fields, .. }) if too_few(fields))
}

/// The error and what caused it, on one line, with what to do.
pub(crate) fn words(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let words = cause.to_string().trim().replace('\n', " ");
        let words = if names_fields(cause) { with_options(&words) } else { words };
        if !parts.iter().any(|p| p.contains(&words)) {
            parts.push(words);
        }
    }
    let mut words = parts.join(": ");
    words.extend(error.chain().find_map(remedy));
    words
}

/// Whether backticks in an error's words stand around names of fields, and not around what a file has in it.
fn names_fields(error: &(dyn StdError + 'static)) -> bool {
    error.is::<Invalid>()
        || error.is::<TrainError>()
        || error.is::<StudyError>()
        || matches!(
            error.downcast_ref(),
            Some(RunError::Exists(_) | RunError::Foreign(_) | RunError::IsAFile(_) | RunError::InUse(_))
        )
        || matches!(
            error.downcast_ref(),
            Some(
                DataError::Samples { .. }
                    | DataError::Normalise { .. }
                    | DataError::NoFile { .. }
                    | DataError::Misfit(_)
            )
        )
}

/// What a user can do, as a continuation of the error's words.
fn remedy(error: &(dyn StdError + 'static)) -> Option<String> {
    if let Some(TrainError::Interrupted { out, .. }) = error.downcast_ref() {
        return Some(format!("; go on with `qn-train --resume --out {}`", out.display()));
    }
    if let Some(DataError::Changed { .. }) = error.downcast_ref() {
        return Some(
            "; bring the data back (`qn-train fetch` checks them), or go on with --changed-data".into(),
        );
    }
    let Some(StudyError::Needs { study, run, fields, .. }) = error.downcast_ref() else { return None };
    let mut command = format!("qn-analyse {study}");
    command.extend(run.iter().map(|run| format!(" {}", run.display())));
    let mut without = String::new();
    for (field, value) in fields {
        let option = option(field);
        match value {
            Some(value) if value.is_empty() => command += &format!(" {option}"),
            Some(value) => command += &format!(" {option} {value}"),
            None => without += &format!(" without {option}"),
        }
    }
    Some(format!(": run `{command}`{without} first"))
}

fn option(field: &str) -> String {
    format!("--{}", field.replace('_', "-"))
}

/// A library's words with its fields, between backticks, as options.
pub(crate) fn with_options(words: &str) -> String {
    let is_field = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase())
            && part.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let parts: Vec<&str> = words.split('`').collect();
    let mut text = String::new();
    let mut at = 0;
    while at < parts.len() {
        text.push_str(parts[at]);
        match (parts.get(at + 1), at + 2 < parts.len()) {
            (Some(inside), true) if is_field(inside) => text += &option(inside),
            (Some(inside), true) => text += &format!("`{inside}`"),
            (Some(rest), false) => text += &format!("`{rest}"),
            (None, _) => {}
        }
        at += 2;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_options_and_nothing_else_does() {
        let cases = [
            ("`label_smoothing` 2: give a share", "--label-smoothing 2: give a share"),
            ("the data: `loss` mse or `k`", "the data: --loss mse or --k"),
            ("run `qn-train fetch mnist` or `a b`", "run `qn-train fetch mnist` or `a b`"),
            ("one ` alone", "one ` alone"),
            ("nothing", "nothing"),
        ];
        cases.iter().for_each(|(library, user)| assert_eq!(with_options(library), *user));
    }

    #[test]
    fn what_is_missing_is_told_with_the_command_that_makes_it() {
        let needs = |fields| StudyError::Needs {
            words: "x is missing".into(),
            study: "eigen",
            run: Some("runs/a".into()),
            fields,
        };
        let told = |fields| words(&anyhow::Error::new(needs(fields)));
        assert_eq!(told(Vec::new()), "x is missing: run `qn-analyse eigen runs/a` first");
        assert_eq!(
            told(vec![("k", Some("3".into()))]),
            "x is missing: run `qn-analyse eigen runs/a --k 3` first"
        );
        assert!(told(vec![("only", None)]).ends_with("`qn-analyse eigen runs/a` without --only first"));
    }
}
