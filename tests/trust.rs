//! Killed, interrupted, starved, corrupted, and still right. docs/reliability.md has what longer runs of these found.

mod common;
mod corrupted;
mod everywhere;
mod interrupted;
mod killed;
mod starved;
mod wide;
