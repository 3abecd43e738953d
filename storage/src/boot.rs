//! Which boot of the machine this is: what tells a killed process, which loses nothing that was handed to the
//! operating system, from a power loss, which may lose what was not synced.

use std::fs;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Random, the same until the machine starts again; empty where the system does not say.
pub(crate) fn id() -> String {
    fs::read_to_string(BOOT_ID).map(|it| it.trim().to_owned()).unwrap_or_default()
}
