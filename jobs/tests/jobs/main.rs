//! Jobs as a process: on a real broker alone, and with importer and notifier under its page in a real Chromium.

mod page;
mod stage;
mod uploads;
#[path = "../../../console/tests/console/webdriver.rs"]
mod webdriver;
