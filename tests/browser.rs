//! The page in a real browser: nothing fails, the slider and the tables work, a phone shows it.
//!
//! Needs Chromium (Debian's package `chromium`, or $CHROMIUM); without one it says so and passes.

use std::process::Command;

use serde_json::Value;

use crate::common::Sandbox;

const RECIPE: &str = r#"
name = "tiny"
description = "a test"
[common]
arch = "digits"
data = "digits"
lr = 0.05
steps = 24
snapshot-every = 8
[eigen]
k = 10
[runs.sgd]
[runs.qn]
optimizer = "qn"
damping = 10.0
"#;

/// Notes what goes wrong, before anything of the page's own runs.
const WATCH: &str = "<script>window.faults = [];
addEventListener('error', e => faults.push(e.message));
console.error = (...words) => faults.push(words.join(' '));</script>";

/// Looks at the page in the frame as a user would, and leaves what it saw in the document.
const USE: &str = "<script>
document.querySelector('iframe').addEventListener('load', event => {
  const view = event.target.contentWindow, page = view.document;
  const box = page.querySelector('.cosines'), slider = box.querySelector('input');
  const seen = () => [box.querySelector('output').textContent, box.querySelector('tbody').textContent];
  const last = seen();
  slider.value = 0;
  slider.dispatchEvent(new Event('input'));
  const first = seen();
  const table = page.querySelector('table.sortable');
  const heads = table.querySelectorAll('th');
  const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
  heads[0].click();
  const once = names();
  heads[0].click();
  const twice = names();
  const shown = [...page.querySelectorAll('figure svg')].filter(svg => svg.getBoundingClientRect().width > 0);
  document.body.dataset.seen = JSON.stringify({
    faults: view.faults, first, last, once, twice, figures: shown.length,
    widest: page.documentElement.scrollWidth, width: view.innerWidth,
  });
});</script>";

fn chromium() -> Option<String> {
    let named = std::env::var("CHROMIUM").ok();
    let candidates =
        named.into_iter().chain(["chromium", "chromium-browser", "google-chrome"].map(String::from));
    candidates
        .into_iter()
        .find(|c| Command::new(c).arg("--version").output().is_ok_and(|o| o.status.success()))
}

/// What [`USE`] saw in a frame of that width.
fn look(sandbox: &Sandbox, browser: &str, page: &str, width: u32) -> Value {
    let page =
        page.replacen("<head>", &format!("<head>{WATCH}"), 1).replace('&', "&amp;").replace('"', "&quot;");
    let frame =
        format!("<!DOCTYPE html><body><iframe width={width} height=800 srcdoc=\"{page}\"></iframe>{USE}");
    sandbox.write("frame.html", frame);
    let profile = sandbox.path("profile");
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
        ])
        .args(["--disable-component-update", "--disable-sync", "--window-size=1400,1000", "--dump-dom"])
        .arg("--virtual-time-budget=5000")
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", sandbox.path("frame.html").display()))
        .output()
        .unwrap();
    let document = String::from_utf8_lossy(&output.stdout);
    let seen = document.split("data-seen=\"").nth(1).and_then(|rest| rest.split('"').next());
    let seen =
        seen.unwrap_or_else(|| panic!("the page was not used: {}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(&seen.replace("&quot;", "\"").replace("&amp;", "&")).unwrap()
}

#[test]
#[cfg_attr(not(feature = "browser"), ignore = "takes Chromium: --features qn-cli/browser")]
fn the_page_works_in_a_browser_and_on_a_phone() {
    let browser = chromium().expect("install Chromium, or set CHROMIUM");
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", RECIPE);
    let out = sandbox.analyse(&["reproduce", "tiny.toml", "--quiet"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let page = std::fs::read_to_string(sandbox.path("runs/tiny/report.html")).unwrap();
    for width in [1200, 380] {
        let seen = look(&sandbox, &browser, &page, width);
        assert_eq!(seen["faults"], serde_json::json!([]), "{width}");
        let words = |at: &str| seen[at][0].as_str().unwrap().to_owned();
        assert!(words("first").starts_with("step 0:") && words("last").starts_with("step 24:"), "{seen}");
        assert_ne!(seen["first"][1], seen["last"][1], "the slider changes the table");
        assert_eq!(seen["once"], serde_json::json!(["sgd", "qn"]), "a click sorts downwards");
        assert_eq!(seen["twice"], serde_json::json!(["qn", "sgd"]), "another upwards");
        // Both together: training and overlap; each: eigenvalues, overlap, angles, singular values; qn: lambda
        // and stability.
        assert_eq!(seen["figures"], 12, "each figure once, in one theme");
        assert!(seen["widest"].as_u64() <= seen["width"].as_u64(), "{width}: the page is too wide: {seen}");
    }
}
