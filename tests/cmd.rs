//! Command lines and what they print, as they are written down in tests/cmd: `TRYCMD=overwrite cargo test --test e2e cmd` writes
//! them anew.

#[test]
fn command_lines_print_what_is_written_down() {
    trycmd::TestCases::new()
        .register_bin("qn-analyse", std::path::Path::new(env!("CARGO_BIN_EXE_qn-analyse")))
        .register_bin("qn-train", std::path::Path::new(env!("CARGO_BIN_EXE_qn-train")))
        .case("../../tests/cmd/*.md");
}
