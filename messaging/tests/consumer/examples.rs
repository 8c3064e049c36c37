//! The worked example, run as a person would run it, and what must have come of it; and the service that the page shows.

use anyhow::{Context as _, Result};
use devstack::Part;
use messaging::{
    blocking::{self, Command},
    settings::Settings,
};

#[path = "../../examples/renewals.rs"]
#[expect(dead_code, reason = "its `main` is for the command line")]
mod renewals;

#[tokio::test(flavor = "multi_thread")]
async fn renewals_are_charged_once_in_order_and_a_bad_one_is_skipped() -> Result<()> {
    let endpoints = tokio::task::spawn_blocking(|| devstack::shared(&[Part::Kafka])).await??;
    let tag = uuid::Uuid::now_v7().simple().to_string();
    let send = async |settings: &Settings, group: &str, command: Command| {
        blocking::send(settings, group, &command).await.map(drop).context("the command is sent")
    };
    let outcome = renewals::run(&endpoints.kafka.context("a broker")?, &tag, send, |_| {}).await?;
    for user in ["ann", "bob", "cleo"] {
        let months: Vec<i64> =
            outcome.charged.iter().filter(|(charged, _)| charged == user).map(|(_, month)| *month).collect();
        assert_eq!(months, [1, 2, 3, 4], "{user}");
    }
    assert_eq!(outcome.charged.len(), 12);
    assert!(outcome.stood_at.1 > 0, "months of bob's come before it: {outcome:?}");
    Ok(())
}

#[test]
fn the_page_of_the_patterns_shows_the_service_as_it_is() {
    let (page, service) = (include_str!("../../../docs/patterns.md"), include_str!("../../examples/service.rs"));
    assert!(page.contains(&format!("```rust,ignore\n{service}```\n")), "docs/patterns.md shows another one");
    assert!(service.lines().count() <= 80, "a small service");
}
