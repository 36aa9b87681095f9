//! What PyTorch has pickled; tests/golden/make_golden.py writes it.

use std::path::Path;

use qn_run::read_tensors;

#[test]
fn a_state_dict_within_a_checkpoint_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/state_dict.pth");
    let file = read_tensors(&path).unwrap();
    let names: Vec<_> = file.tensors.keys().map(String::as_str).collect();
    assert_eq!(names, ["conv.bias", "conv.weight"], "the counter is left out");
    let weight = &file.tensors["conv.weight"];
    assert_eq!(weight.shape(), [3, 2]);
    assert_eq!(weight.to_f64().unwrap(), [2.0, 5.0, 3.0, 6.0, 4.0, 7.0]);
    assert_eq!(file.tensors["conv.bias"].to_f32().unwrap(), [8.0, 9.0, 10.0, 11.0]);
}

#[test]
fn what_is_no_pickle_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pth");
    std::fs::write(&path, "not a zip archive").unwrap();
    let message = format!("{:#}", read_tensors(&path).unwrap_err());
    assert!(message.contains("x.pth") && message.contains("safetensors.torch.save_file"), "{message}");
    assert!(read_tensors(&dir.path().join("missing.pth")).is_err());
}
