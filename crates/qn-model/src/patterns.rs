//! Names chosen by glob patterns.

use glob::Pattern;

use crate::ModelError;

/// Of each name, whether one of the patterns matches it; `what` is what messages call a name's bearer.
pub(crate) fn matching<S: AsRef<str>>(
    what: &'static str,
    names: &[&str],
    patterns: &[S],
) -> Result<Vec<bool>, ModelError> {
    let mut taken = vec![false; names.len()];
    for pattern in patterns {
        let text = pattern.as_ref();
        let pattern = Pattern::new(text)
            .map_err(|e| ModelError::Pattern { pattern: text.to_owned(), reason: e.msg.to_owned() })?;
        let mut found = 0;
        for (taken, name) in taken.iter_mut().zip(names) {
            if pattern.matches(name) {
                (*taken, found) = (true, found + 1);
            }
        }
        if found == 0 {
            return Err(ModelError::NoName { what, pattern: text.to_owned(), names: names.join(", ") });
        }
    }
    Ok(taken)
}
