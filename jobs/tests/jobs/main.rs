//! Jobs as a process: on a real broker alone, and with importer and notifier under its page in a real Chromium.

mod page;
mod stage;
mod uploads;
#[allow(dead_code, reason = "the tests of the console use more of it")]
#[path = "../../../console/tests/console/webdriver.rs"]
mod webdriver;
