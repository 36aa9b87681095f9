use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Normalisation;

/// Versions that a result depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Versions {
    /// This toolkit.
    pub qn: String,
    /// Git commit of the sources, `unknown` outside a checkout; `-dirty` when they were changed.
    pub commit: String,
    /// Operating system and processor family.
    pub platform: String,
    /// The processor's name where the system gives it, the widest vectors it has, and how many threads it runs.
    /// Empty in files of earlier versions.
    #[serde(default)]
    pub processor: String,
}

impl Versions {
    /// Of this build.
    pub fn current() -> Self {
        Self {
            qn: env!("CARGO_PKG_VERSION").into(),
            commit: env!("QN_COMMIT").into(),
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            processor: processor(),
        }
    }
}

/// For example `AMD EPYC, AVX-512, 2 threads`: roundings differ with the vectors, times with the rest.
fn processor() -> String {
    let lines = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = lines.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let name = name.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{name}{}, {threads} threads", vectors())
}

#[cfg(target_arch = "x86_64")]
fn vectors() -> &'static str {
    if is_x86_feature_detected!("avx512f") {
        ", AVX-512"
    } else if is_x86_feature_detected!("avx2") {
        ", AVX2"
    } else {
        ""
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vectors() -> &'static str {
    ""
}

/// What a run was made of and with: `manifest.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this file's format.
    pub schema_version: u32,
    /// Versions of the program and of the libraries behind it.
    pub versions: Versions,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Seed of all random numbers of the run.
    pub seed: u64,
    /// Samples used for training.
    pub train_samples: usize,
    /// SHA-256 of the training samples used.
    pub train_sha256: String,
    /// SHA-256 of the test split; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_sha256: Option<String>,
    /// What the inputs were normalised with; absent where they were taken as they are, and in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalisation: Option<Normalisation>,
    /// Number of parameters P.
    pub params: usize,
    /// Hash of the layout.
    pub layout_hash: String,
    /// Names and shapes in layout order.
    pub layout: Vec<(String, Vec<usize>)>,
}
