//! The page in a real Chromium, by the keyboard alone.

use anyhow::{Context as _, Result, ensure};
use messaging::retry::{Exhausted, RetryConfig};

use crate::{
    stage::{Buried, Stage},
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
    member.stop().await
}
