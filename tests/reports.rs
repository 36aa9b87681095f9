//! Reading reports.

use std::path::Path;

use serde_json::Value;

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        .unwrap()
}

pub(crate) fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// The committed schema accepts the report, and would not without one of its fields.
pub(crate) fn satisfies_its_schema(name: &str, field: &str, report: &Value) {
    let file = format!("../../analysis/schemas/{name}.schema.json");
    let validator =
        jsonschema::validator_for(&json(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file))).unwrap();
    let errors: Vec<String> = validator.iter_errors(report).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{name}: {errors:?}");
    let mut broken = report.clone();
    broken.as_object_mut().unwrap().remove(field);
    assert!(!validator.is_valid(&broken), "{name}");
}
