//! Writes the git commit into the build, where there is one. Nothing is fetched.

use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn main() {
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).map_or("unknown".to_owned(), |commit| {
        let clean = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| s.is_empty());
        if clean { commit } else { commit + "-dirty" }
    });
    println!("cargo::rustc-env=QN_COMMIT={commit}");
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(dir) = git(&["rev-parse", "--absolute-git-dir"]) {
        println!("cargo::rerun-if-changed={dir}/HEAD");
        // Changes with what is committed, so that a tree that was dirty is not called so for ever.
        println!("cargo::rerun-if-changed={dir}/index");
        println!("cargo::rerun-if-changed={dir}/refs/heads");
    }
}
