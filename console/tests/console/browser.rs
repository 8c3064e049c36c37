//! The page in a real Chromium, by the keyboard alone.

use anyhow::{Context as _, Result, ensure};
use devstack::eventually;
use messaging::retry::{Exhausted, RetryConfig};
use rdkafka::Message as _;

use crate::{
    stage::{Buried, DEADLINE, Stage, text},
    webdriver::{Browser, ENTER},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_record_is_seen_and_skipped_by_the_keyboard_and_the_consumer_goes_on() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.produce(0, "bob", r#"{"user":"bob","month":"<img src=x onerror=document.title='owned'>"}"#).await?;
    stage.produce(0, "bob", r#"{"user":"bob","month":2}"#).await?;
    let letter = |number: i64| Buried {
        partition: 0,
        offset: 100 + number,
        key: "ann".to_owned(),
        value: "{}".to_owned(),
        reason: ["provider-away", "unreadable"][number as usize % 2].to_owned(),
        message: format!("order {number} is not to be had"),
        redrive_count: None,
    };
    stage.bury(&(0..20).map(letter).collect::<Vec<_>>()).await?;
    let member = stage.consume(RetryConfig::empty().exhausted(Exhausted::Block), "onerror")?;
    let console = stage.console(&["--only-groups", &stage.group]).await?;
    let browser = Browser::start().await?;
    browser.open(&console.url).await?;
    let skip = format!("skip-{}-0@0", stage.topic);
    browser.until("the page is live", "return document.getElementById('live').textContent === 'live'").await?;
    browser.until("the record is seen", &format!("return document.getElementById('{skip}') !== null")).await?;
    for (scheme, width) in [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)] {
        browser.picture("blocked", scheme, width).await?;
        let fits = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth";
        ensure!(browser.run(fits).await? == true, "nothing is wider than the page at {width}");
    }

    let hidden = "document.body.dataset.role = 'operate'; \
        const ignore = document.querySelector('button.admin'), skip = document.querySelector('button.operate'); \
        const hidden = ignore.offsetParent === null && skip.offsetParent !== null; \
        document.body.dataset.role = 'view'; const all = skip.offsetParent === null; \
        document.body.dataset.role = 'admin'; return hidden && all";
    ensure!(browser.run(hidden).await? == true, "a role sees the buttons of what it may do");

    browser.tab_to(&format!("record-{}-0-0", stage.topic)).await?;
    browser.keys(ENTER).await?;
    browser
        .until("the record", "return document.getElementById('record-text').textContent.includes('onerror')")
        .await?;
    browser.tab_to("record-close").await?;
    browser.keys(ENTER).await?;

    browser.tab_to(&skip).await?;
    browser.keys(ENTER).await?;
    let says = browser.run("return document.getElementById('confirm-says').textContent").await?;
    let says = says.as_str().context("text")?;
    ensure!(says.contains(&stage.topic) && says.contains("offset 0, key bob"), "it names what is hit: {says}");
    browser.picture("confirm", "light", 1280).await?;
    browser.keys("the request is bad").await?;
    browser.tab_to("named").await?;
    browser.keys("0@1").await?;
    browser.keys(ENTER).await?;
    browser
        .until("a wrong name is refused", "return document.getElementById('refusal').textContent.includes('0@0')")
        .await?;
    browser.run("document.getElementById('named').select(); return true").await?;
    browser.keys("0@0").await?;
    browser.keys(ENTER).await?;
    let gone = format!("return document.getElementById('{skip}') === null && !document.getElementById('confirm').open");
    browser.until("the partition goes on", &gone).await?;
    let row = format!(
        "return document.getElementById('audit').textContent.includes('the request is bad') \
        && document.getElementById('groups').textContent.includes('caught up') \
        && document.getElementById('dead-letters').textContent.includes('{}')",
        stage.dead_letter_topic()
    );
    browser.until("it is audited, and a dead letter", &row).await?;
    ensure!(browser.run("return document.title").await? == "Siteview console", "what a record holds is text");
    browser.picture("after", "dark", 1280).await?;
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
    }
    browser.tab_to("letters-redrive").await?;
    browser.keys(ENTER).await?;
    let says = browser.run("return document.getElementById('confirm-says').textContent").await?;
    let names = format!("0@1, 0@5 of {}", stage.dead_letter_topic());
    ensure!(says.as_str().is_some_and(|says| says.contains(&names)), "{says}");
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
    browser.run("document.getElementById('edit-value').select(); return true").await?;
    browser.keys("mended").await?;
    browser.picture("edit", "light", 1280).await?;
    browser.tab_to("edit-go").await?;
    browser.keys(ENTER).await?;
    let says = browser.run("return document.getElementById('confirm-says').textContent").await?;
    ensure!(says.as_str().is_some_and(|says| says.contains("offset 19, with another value")), "{says}");
    confirm(browser, "a typo", "0@19", "edited: value").await?;
    let back = async || {
        let records = stage.committed_records().await.ok()?;
        records.iter().any(|record| text(record) == "mended" && record.key() == Some(&b"ann"[..])).then_some(())
    };
    eventually("the edited record is in its topic", DEADLINE, back).await
}
