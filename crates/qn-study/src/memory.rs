//! How much memory there is, where the system tells: on Linux.

use std::fs::read_to_string;
use std::path::Path;

/// Bytes that this process can still have: the least of what the system can give, what the control groups leave and
/// what the limit of its address space leaves.
pub(crate) fn free_memory() -> Option<u64> {
    [available(), left_by_control_groups(), left_of_address_space()].into_iter().flatten().min()
}

/// The most memory that this process has had, in bytes.
pub(crate) fn peak_memory() -> Option<u64> {
    kibibytes("/proc/self/status", "VmHWM:")
}

fn available() -> Option<u64> {
    kibibytes("/proc/meminfo", "MemAvailable:")
}

fn left_of_address_space() -> Option<u64> {
    let text = read_to_string("/proc/self/limits").ok()?;
    let limit = text.lines().find_map(|l| l.strip_prefix("Max address space"))?;
    let limit: u64 = limit.split_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(kibibytes("/proc/self/status", "VmSize:")?))
}

/// Where a version of control groups has them, and how it calls limit, use and files that may be dropped again.
struct Version {
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    cached: &'static str,
}

const FIRST: Version = Version {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cached: "total_inactive_file ",
};
const SECOND: Version =
    Version { root: "/sys/fs/cgroup", limit: "memory.max", used: "memory.current", cached: "inactive_file " };

/// By this process's groups and by those that they are in.
fn left_by_control_groups() -> Option<u64> {
    let text = read_to_string("/proc/self/cgroup").ok()?;
    let groups = text.lines().filter_map(|line| {
        let (controllers, own) = line.split_once(':')?.1.split_once(":/")?;
        let version = match controllers {
            "" => SECOND,
            _ if controllers.split(',').any(|c| c == "memory") => FIRST,
            _ => return None,
        };
        Path::new(own).ancestors().filter_map(|group| version.left_by(group)).min()
    });
    groups.min()
}

impl Version {
    fn left_by(&self, group: &Path) -> Option<u64> {
        let read = |file: &str| read_to_string(Path::new(self.root).join(group).join(file)).ok();
        let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
        let (limit, used, statistics) = (number(self.limit)?, number(self.used)?, read("memory.stat")?);
        let cached: u64 = statistics.lines().find_map(|l| l.strip_prefix(self.cached))?.parse().ok()?;
        Some(limit.saturating_sub(used.saturating_sub(cached)))
    }
}

fn kibibytes(file: &str, field: &str) -> Option<u64> {
    let text = read_to_string(file).ok()?;
    let line = text.lines().find(|l| l.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
