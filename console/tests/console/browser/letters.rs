//! Letters are chosen and edited; and what a record holds is text, wherever it is shown.

use anyhow::{Context as _, Result, ensure};
use devstack::eventually;
use messaging::retry::{Exhausted, RetryConfig};
use rdkafka::Message as _;

use super::{fits, open, says};
use crate::{
    stage::{Buried, DEADLINE, Stage, text},
    webdriver::{Browser, ENTER},
};

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_chosen_and_edited_by_the_keyboard_and_what_a_record_holds_is_text() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.produce(0, "bob", r#"{"user":"bob","month":"<img src=x onerror=document.title='owned'>"}"#).await?;
    let letter = |number: i64| Buried {
        reason: ["provider-away", "unreadable"][number as usize % 2].to_owned(),
        message: format!("order {number} is not to be had"),
        ..Buried::of(100 + number, "ann", "{}")
    };
    stage.bury(&(0..20).map(letter).collect::<Vec<_>>()).await?;
    let member = stage.consume(RetryConfig::empty().exhausted(Exhausted::Block), "onerror")?;
    let console = stage.console(&["--only-groups", &stage.group]).await?;
    let browser = open(&console).await?;
    let record = format!("record-{}-0-0", stage.topic);
    browser.until("the record is seen", &format!("return document.getElementById('{record}') !== null")).await?;
    browser.tab_to(&record).await?;
    browser.keys(ENTER).await?;
    let holds = "const text = document.getElementById('record-text').textContent; \
        return text.includes('onerror') && text.includes('trace-id') && text.includes('t-17')";
    browser.until("the record, its headers too", holds).await?;
    browser.picture("record", "light", 1280).await?;
    browser.tab_to("record-close").await?;
    browser.keys(ENTER).await?;
    ensure!(browser.run("return document.title").await? == "Siteview console", "what a record holds is text");
    choose(&stage, &browser).await?;
    edit(&stage, &browser).await?;
    member.stop().await
}

/// Says why, names what is hit, and does it; until the redrives say something.
async fn confirm(browser: &Browser, reason: &str, name: &str, told: &str) -> Result<()> {
    browser.keys(reason).await?;
    browser.tab_to("named").await?;
    browser.keys(name).await?;
    browser.keys(ENTER).await?;
    let done = format!("return document.getElementById('redrives').textContent.includes('{told}')");
    browser.until(&format!("the redrives say {told}"), &done).await
}

/// Two letters of a kind are chosen and redriven.
async fn choose(stage: &Stage, browser: &Browser) -> Result<()> {
    let button = "return [...document.querySelectorAll('button.lists')] \
        .find((button) => button.closest('tr').textContent.includes('unreadable')).id";
    let button = browser.run(button).await?;
    browser.tab_to(button.as_str().context("a button")?).await?;
    browser.keys(ENTER).await?;
    let all = "return document.getElementById('letters-list').children.length === 10";
    browser.until("the letters of the kind are listed", all).await?;
    for place in ["choose-0@1", "choose-0@5"] {
        browser.tab_to(place).await?;
        browser.keys(" ").await?;
    }
    for (scheme, width) in [("light", 1280), ("dark", 390)] {
        browser.picture("letters", scheme, width).await?;
        fits(browser).await?;
    }
    browser.tab_to("letters-redrive").await?;
    browser.keys(ENTER).await?;
    let says = says(browser).await?;
    let names = format!("0@1, 0@5 of {}", stage.dead_letter_topic());
    ensure!(says.contains(&names), "{says}");
    confirm(browser, "these two", "2 letters", "2 letters").await
}

/// The last letter of a kind goes back with another value.
async fn edit(stage: &Stage, browser: &Browser) -> Result<()> {
    let shown = "return document.getElementById('edit-value').value === '{}' && !document.getElementById('edit-value').disabled";
    browser.tab_to(&format!("edit-{}-0-19", stage.dead_letter_topic())).await?;
    browser.keys(ENTER).await?;
    browser.until("the letter is there", shown).await?;
    browser.tab_to("edit-go").await?;
    browser.keys(ENTER).await?;
    browser
        .until(
            "no change is none",
            "return document.getElementById('edit-refusal').textContent === 'Nothing is changed.'",
        )
        .await?;
    browser.tab_to("edit-value").await?;
    browser.replace_by("mended").await?;
    browser.picture("edit", "light", 1280).await?;
    browser.tab_to("edit-go").await?;
    browser.keys(ENTER).await?;
    let says = says(browser).await?;
    ensure!(says.contains("offset 19, with another value"), "{says}");
    confirm(browser, "a typo", "0@19", "edited: value").await?;
    let back = async || {
        let records = stage.committed_records().await.ok()?;
        records.iter().any(|record| text(record) == "mended" && record.key() == Some(&b"ann"[..])).then_some(())
    };
    eventually("the edited record is in its topic", DEADLINE, back).await
}
