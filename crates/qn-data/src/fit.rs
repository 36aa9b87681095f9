//! Whether networks, losses and runs fit the data.

use std::path::Path;

use qn_model::Architecture;
use qn_run::{Invalid, LossKind};

use crate::{DataError, Dataset, Form, TargetForm};

/// The architecture of a name or file for such samples and targets.
///
/// # Errors
/// It is none, or does not fit.
pub fn architecture_for(name: &str, form: &Form) -> Result<Architecture, DataError> {
    let architecture = Architecture::named(name, &form.shape, form.outputs())?;
    if !form.fits(architecture.classes) {
        let (given, wanted) = (architecture.classes, form.outputs());
        return Err(DataError::Misfit(Invalid(format!(
            "{name} has {given} outputs (classes), and targets are vectors of {wanted} numbers: make it classes = {wanted}"
        ))));
    }
    Ok(architecture)
}

/// The loss that was asked for, or the usual one for such targets.
///
/// # Errors
/// Targets are vectors that are no probabilities, which cross-entropy asks for.
pub fn check_loss(asked: Option<LossKind>, form: &Form) -> Result<LossKind, DataError> {
    match (asked, form.targets) {
        (None, TargetForm::Values { .. }) => Ok(LossKind::Mse),
        (Some(LossKind::CrossEntropy), TargetForm::Values { width }) => {
            let labels = if width == 1 { ", or save labels as integers, y.astype('int64')" } else { "" };
            Err(DataError::Misfit(Invalid(format!(
                "`loss` cross-entropy takes labels or probabilities, and the targets are vectors of {width} numbers that are \
                 neither: use `loss` mse or bce{labels}"
            ))))
        }
        (asked, _) => Ok(asked.unwrap_or_default()),
    }
}

/// Refuses data whose first `samples` have another SHA-256 than the run's manifest says.
///
/// # Errors
/// They have.
pub fn refuse_changed_data(
    run: &Path,
    data: &Dataset,
    samples: usize,
    expected: &str,
) -> Result<(), DataError> {
    if data.sha256_of_first(samples).as_deref() == Some(expected) {
        return Ok(());
    }
    Err(DataError::Changed {
        split: data.split().as_str(),
        dataset: data.name().to_owned(),
        run: run.to_owned(),
    })
}
