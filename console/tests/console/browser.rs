//! The page in a real Chromium, by the keyboard alone.

mod letters;

use anyhow::{Context as _, Result, ensure};
use devstack::eventually;
use messaging::{
    blocking::Command,
    retry::{Exhausted, RetryConfig},
    settings::Settings,
};

use crate::{
    access::token,
    renewals::example,
    stage::{Buried, Console, DEADLINE, Mended, Stage},
    webdriver::{Browser, ENTER},
};

/// Opens the page, and waits until it is kept up to date.
async fn open(console: &Console) -> Result<Browser> {
    let browser = Browser::start().await?;
    browser.open(&console.url).await?;
    is_live(&browser).await?;
    Ok(browser)
}

async fn is_live(browser: &Browser) -> Result<()> {
    browser.until("the page is live", "return document.getElementById('live')?.textContent === 'live'").await
}

async fn fits(browser: &Browser) -> Result<()> {
    let fits = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth";
    ensure!(browser.run(fits).await? == true, "something is wider than the page");
    Ok(())
}

/// What the dialog says that it will do.
async fn says(browser: &Browser) -> Result<String> {
    let says = browser.run("return document.getElementById('confirm-says').textContent").await?;
    Ok(says.as_str().context("text")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_renewal_is_seen_and_skipped_by_the_keyboard_and_the_consumer_goes_on() -> Result<()> {
    let stage = Stage::new(1).await?;
    let tag = uuid::Uuid::now_v7().simple().to_string();
    let console = stage.console(&["--only-groups", &format!("renewals-{tag}")]).await?;
    let browser = open(&console).await?;
    let operate = async |_: &Settings, _: &str, command: Command| {
        see(&browser, &command).await?;
        skip(&browser, &command).await
    };
    let outcome = example::run(&stage.servers, &tag, operate, |_| {}).await?;
    ensure!(outcome.charged.len() == 12, "the others are charged: {outcome:?}");
    let told = "return document.getElementById('audit').textContent.includes('the request is bad') \
        && document.getElementById('blocked').textContent.includes('No partition stands') \
        && /1\\s*dead letters left/.test(document.querySelector('nav').textContent)";
    browser.until("it is audited, and a dead letter", told).await?;
    browser.picture("after", "dark", 1280).await?;
    Ok(())
}

/// The renewal is on the page, and what it holds.
async fn see(browser: &Browser, command: &Command) -> Result<()> {
    let Command { topic, partition, offset, .. } = command;
    let seen = format!(
        "return document.getElementById('skip-{topic}-{partition}@{offset}') !== null \
        && document.getElementById('blocked').textContent.includes('key bob') \
        && document.querySelector('#groups .cause')?.textContent === 'blocked'"
    );
    browser.until("the renewal is seen", &seen).await?;
    for (scheme, width) in [("light", 390), ("dark", 390), ("dark", 1280), ("light", 1280)] {
        browser.picture("blocked", scheme, width).await?;
        fits(browser).await?;
    }
    browser.tab_to(&format!("record-{topic}-{partition}-{offset}")).await?;
    browser.keys(ENTER).await?;
    let holds = "return document.getElementById('record-text').textContent.includes('two and a half')";
    browser.until("what it holds", holds).await?;
    browser.tab_to("record-close").await?;
    browser.keys(ENTER).await
}

/// It is skipped; what is not named is not hit.
async fn skip(browser: &Browser, command: &Command) -> Result<()> {
    let Command { topic, partition, offset, .. } = command;
    let skip = format!("skip-{topic}-{partition}@{offset}");
    browser.tab_to(&skip).await?;
    browser.keys(ENTER).await?;
    let says = says(browser).await?;
    let named = format!("{topic}, partition {partition}, offset {offset}, key bob");
    ensure!(says.contains(&named), "it names what is hit: {says}");
    browser.picture("confirm", "light", 1280).await?;
    browser.keys("the request is bad").await?;
    browser.tab_to("named").await?;
    browser.keys(&format!("{partition}@{}", offset + 1)).await?;
    browser.keys(ENTER).await?;
    let refused = format!("return document.getElementById('refusal').textContent.includes('{partition}@{offset}')");
    browser.until("a wrong name is refused", &refused).await?;
    browser.replace_by(&format!("{partition}@{offset}")).await?;
    browser.keys(ENTER).await?;
    let gone = format!("return document.getElementById('{skip}') === null && !document.getElementById('confirm').open");
    browser.until("the partition goes on", &gone).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_signs_in_sees_what_they_may_do_and_unparks_a_key_by_the_keyboard() -> Result<()> {
    let stage = Stage::new(1).await?;
    for value in ["bad a1", "a2"] {
        stage.produce(0, "ann", value).await?;
    }
    let letter = Buried { reason: "unreadable".to_owned(), ..Buried::of(7, "ann", "{}") };
    stage.bury(&[letter]).await?;
    let mended = Mended::default();
    let member = stage.consume_with(RetryConfig::empty().exhausted(Exhausted::ParkKey), mended.clone())?;
    let (views, may_view) = token(&stage, "vera", "view").await?;
    let (operates, may_operate) = token(&stage, "otto", "operate").await?;
    let tokens = stage.file("tokens.toml", &format!("{may_view}{may_operate}"))?;
    let arguments = ["--only-groups", &stage.group, "--tokens-file", &tokens.display().to_string()];
    let console = stage.console(&arguments).await?;
    let browser = Browser::start().await?;
    browser.open(&console.url).await?;
    let unpark = format!("unpark-{}-0@0", stage.topic);
    // Of what is there, an operator and an admin may do something.
    let shown = format!(
        "const shown = (found) => found.offsetParent !== null; \
        const [unpark, edit] = [document.getElementById('{unpark}'), document.querySelector('button.admin')]; \
        return unpark !== null && edit !== null && !shown(edit) && shown(unpark)"
    );
    for (token, sees) in [(&views, "=== false"), (&operates, "=== true")] {
        browser.until("nobody is signed in", "return document.getElementById('token') !== null").await?;
        browser.tab_to("token").await?;
        browser.keys(token).await?;
        browser.keys(ENTER).await?;
        is_live(&browser).await?;
        let both = format!(
            "return document.getElementById('{unpark}') !== null \
            && document.querySelector('button.admin') !== null && (() => {{ {shown} }})() {sees}"
        );
        browser.until("what the role may do is shown", &both).await?;
        if sees == "=== false" {
            browser.tab_to("sign-out").await?;
            browser.keys(ENTER).await?;
        }
    }
    for (scheme, width) in [("light", 1280), ("dark", 390)] {
        browser.picture("parked", scheme, width).await?;
        fits(&browser).await?;
    }
    mended.mend(true);
    browser.tab_to(&unpark).await?;
    browser.keys(ENTER).await?;
    let says = says(&browser).await?;
    ensure!(says.contains(&stage.topic) && says.contains("offset 0, key ann"), "it names what is hit: {says}");
    browser.keys("the provider is back").await?;
    browser.tab_to("named").await?;
    browser.keys("0@0").await?;
    browser.keys(ENTER).await?;
    let handled = async || (mended.handled() == ["bad a1", "a2"]).then_some(());
    eventually("the key goes on, in order", DEADLINE, handled).await?;
    let told = "return document.getElementById('parked').textContent.includes('No key waits') \
        && document.getElementById('audit').textContent.includes('unpark by otto: the provider is back')";
    browser.until("it is audited", told).await?;
    member.stop().await
}
