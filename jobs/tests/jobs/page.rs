//! The page in a real Chromium, with every service behind it: an import that outlives a reload and a restart of the notifier, its
//! errors, and one that is cancelled.

use anyhow::{Context as _, Result, ensure};
use devstack::{Devstack, Options, Part, eventually};
use nix::sys::signal::Signal;

use crate::{
    stage::DEADLINE,
    webdriver::{Browser, ENTER},
};

const ROWS: usize = 20_000;

/// Puts a file of rows into the page, as a person who chooses it; every hundredth row has no address.
const CHOOSE: &str = r#"
    const rows = Array.from({ length: ROWS }, (_, n) =>
        `"Doe, ${n}",${n % 100 ? `TAG${n}@example.org` : "nobody"},+4420${79460000 + n % 10000}`);
    const transfer = new DataTransfer();
    transfer.items.add(new File(["Full name,E-Mail,Phone\n" + rows.join("\n")], "contacts.csv", { type: "text/csv" }));
    const input = document.getElementById("file");
    input.files = transfer.files;
    input.dispatchEvent(new Event("change"));
    return true;
"#;

async fn choose(browser: &Browser, tag: &str) -> Result<()> {
    browser.run(&CHOOSE.replace("ROWS", &ROWS.to_string()).replace("TAG", tag)).await?;
    let found = "return !document.getElementById('preview').hidden && document.getElementById('email').value === 'E-Mail' \
        && document.getElementById('name').value === 'Full name' && document.getElementById('phone').value === 'Phone' \
        && document.querySelectorAll('#rows tr').length === 5";
    browser.until("the preview shows what was found", found).await
}

fn shows(id: &str, text: &str) -> String {
    format!("return document.getElementById('{id}').textContent === '{text}'")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_followed_over_a_reload_and_a_restart_and_another_one_is_cancelled() -> Result<()> {
    let files = tempfile::tempdir()?;
    let stack = Devstack::start(Options::new([Part::Jobs, Part::Importer, Part::Notifier], files.path())?).await?;
    let (importer, notifier) = (stack.importer().context("an importer")?, stack.notifier().context("a notifier")?);
    let jobs_url = stack.endpoints().jobs_url.clone().context("jobs")?;
    let browser = Browser::start().await?;
    browser.open(&jobs_url).await?;
    browser.until("the page is live", &shows("live", "live")).await?;
    choose(&browser, "a").await?;
    for (scheme, width) in [("light", 1280), ("dark", 390)] {
        browser.picture("import-preview", scheme, width).await?;
        let fits = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth";
        ensure!(browser.run(fits).await? == true, "nothing is wider than the page at {width}");
    }

    // With the importer frozen the import is certainly under way for as long as the test wants.
    importer.signal(Signal::SIGSTOP);
    browser.tab_to("start").await?;
    browser.keys(ENTER).await?;
    let import = "return JSON.parse(localStorage.getItem('siteview-import') ?? '{}').import_id ?? ''";
    let accepted = async || browser.run(import).await.ok()?.as_str().filter(|id| !id.is_empty()).map(str::to_owned);
    let id = eventually("the import is accepted", DEADLINE, async || accepted().await).await?;
    let channel = browser.run("return JSON.parse(localStorage.getItem('siteview-channel')).channel_id").await?;
    browser.open(&jobs_url).await?;
    browser.until("the reloaded page has the import", &shows("rows-all", "20,000")).await?;
    ensure!(browser.run(import).await? == id, "it is the same import");

    notifier.kill();
    browser
        .until(
            "the page says that the notifier is away",
            "return document.getElementById('live').dataset.state === 'away'",
        )
        .await?;
    notifier.restart().await?;
    importer.signal(Signal::SIGCONT);
    browser.until("the import is completed", &shows("state", "Completed")).await?;
    browser.until("the page is live again", &shows("live", "live")).await?;
    ensure!(browser.run("return JSON.parse(localStorage.getItem('siteview-channel')).channel_id").await? == channel);
    for (count, expected) in [("imported", "19,800"), ("updated", "0"), ("skipped", "0"), ("failed", "200")] {
        browser.until(&format!("{count} is {expected}"), &shows(count, expected)).await?;
    }
    browser
        .until(
            "errors are shown",
            "return document.querySelectorAll('#error-rows tr').length === 50 \
            && document.querySelector('#error-rows td').textContent === '2'",
        )
        .await?;
    browser.picture("import-completed", "light", 1280).await?;
    browser.picture("import-completed", "dark", 390).await?;
    let href = browser.run("return document.getElementById('error-file').href").await?;
    let errors = reqwest::get(href.as_str().context("a link")?).await?.text().await?;
    let lines: Vec<usize> = errors
        .lines()
        .skip(1)
        .map(|line| line.split(',').next().unwrap_or_default().parse())
        .collect::<Result<_, _>>()?;
    ensure!(
        lines == (0..200).map(|n| n * 100 + 2).collect::<Vec<_>>(),
        "the file names exactly the bad rows: {lines:?}"
    );

    browser.tab_to("again").await?;
    browser.keys(ENTER).await?;
    choose(&browser, "b").await?;
    importer.signal(Signal::SIGSTOP);
    browser.tab_to("start").await?;
    browser.keys(ENTER).await?;
    eventually("the second is accepted", DEADLINE, async || accepted().await.filter(|other| *other != id)).await?;
    browser.tab_to("cancel").await?;
    browser.keys(ENTER).await?;
    browser
        .until("the wish is told", "return document.getElementById('said').textContent.startsWith('Cancelling')")
        .await?;
    importer.signal(Signal::SIGCONT);
    browser.until("it is cancelled", &shows("state", "Cancelled")).await?;
    browser
        .until(
            "every row is accounted for",
            "return ['imported', 'updated', 'skipped', 'failed'] \
        .reduce((sum, id) => sum + Number(document.getElementById(id).textContent.replaceAll(',', '')), 0) === 20000",
        )
        .await?;
    browser.picture("import-cancelled", "light", 1280).await?;
    Ok(())
}
