//! Uploads that are sent twice, cut off or killed: the whole import, or nothing of it, and the same again is the same import.

use std::collections::BTreeMap;
use std::time::Duration;

use acceptance::{Answer, ImportStage, Member, Owner, Sheet, Topic, Upload, channel, import_scenario};
use anyhow::{Context, Result, bail, ensure};
use devstack::eventually;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{DEADLINE, ONE_AT_A_TIME, servers};

const ROWS: usize = 5000;
/// Some hundred jobs: long enough on their way into the log to be met there.
const MANY_ROWS: usize = 100_000;
const ROWS_PER_JOB: i64 = 500;
/// How often a transaction may be whole before it is met.
const ATTEMPTS: usize = 20;

/// Two instances of jobs, each with a spool of its own, and nobody who works what they accept.
struct Scene<'s> {
    stage: &'s ImportStage,
    first: Member,
    second: Member,
    channel: String,
    rows: u64,
    text: String,
    keys: usize,
    open: Vec<TcpStream>,
}

/// Rows by import and job, as whoever reads committed records finds them.
type Log = BTreeMap<String, BTreeMap<u64, u64>>;

impl<'s> Scene<'s> {
    async fn set(stage: &'s ImportStage, rows: usize) -> Result<Self> {
        let mut notifier = stage.notifier("notifier", &[])?;
        notifier.ready().await?;
        let channel = channel(&notifier.address()).await?;
        let (mut first, mut second) = (stage.jobs("first", &[])?, stage.jobs("second", &[])?);
        first.ready().await?;
        second.ready().await?;
        let Sheet { text, rows, .. } = Sheet::new(&mut StdRng::seed_from_u64(9), &mut Owner::new("ada"), rows);
        Ok(Self { stage, first, second, channel, rows, text, keys: 0, open: Vec::new() })
    }

    /// The file under a key that nobody has used.
    fn upload(&mut self) -> Upload {
        self.keys += 1;
        Upload::new(&self.channel, "ada", &format!("key-{}", self.keys), self.text.clone())
    }

    fn addresses(&self) -> [String; 2] {
        [self.first.address(), self.second.address()]
    }

    fn jobs(&self) -> Topic {
        self.stage.topic("import.jobs")
    }

    /// The log holds so many imports; each of them whole and once, opened once.
    async fn holds(&self, imports: usize) -> Result<Log> {
        let (topic, commands) = (self.jobs(), self.stage.topic("import.progress.commands"));
        // A marker may come later than its answer: until then readers of committed records stop before it.
        let (_, _) = (topic.ends()?, commands.ends()?);
        let mut log = Log::new();
        for record in topic.read_committed()? {
            let job: Value = serde_json::from_slice(record.value.as_deref().unwrap_or_default())?;
            let import = job["import_id"].as_str().context("an import")?.to_owned();
            let number = job["job"].as_u64().context("a number")?;
            let rows = job["rows"].as_array().context("rows")?.len() as u64;
            ensure!(log.entry(import).or_default().insert(number, rows).is_none(), "a job twice");
        }
        let mut opened: Vec<String> = Vec::new();
        for record in commands.read_committed()? {
            opened.push(String::from_utf8(record.key.context("a key")?)?);
        }
        opened.sort();
        ensure!(opened.iter().eq(log.keys()), "{opened:?} are opened of {:?}", log.keys());
        ensure!(log.len() == imports, "{} imports instead of {imports}", log.len());
        for (import, jobs) in &log {
            let is_whole = jobs.keys().copied().eq(0..jobs.len() as u64) && jobs.values().sum::<u64>() == self.rows;
            ensure!(is_whole, "{import} is not whole: {jobs:?}");
        }
        Ok(log)
    }
}

async fn spool_has(member: &Member, files: usize) -> Result<()> {
    let has = async || member.spooled().is_ok_and(|found| found == files).then_some(());
    eventually(&format!("{files} files in the spool of {}", member.name()), DEADLINE, has).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_one_import_at_two_instances_at_once_and_ever_after() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    import_scenario(&servers()?, async |stage| {
        let mut scene = Scene::set(stage, ROWS).await?;
        for round in 1..=3 {
            let (upload, [first, second]) = (scene.upload(), scene.addresses());
            let (one, two, three) =
                tokio::try_join!(upload.accepted(&first), upload.accepted(&second), upload.accepted(&first))?;
            ensure!(one == two && one == three, "{one}, {two} and {three}");
            let again = upload.send(&second).await?;
            ensure!(again == Answer { status: 202, import: Some(one.clone()) }, "{again:?}");
            ensure!(scene.holds(round).await?.contains_key(&one));
        }
        ensure!(scene.first.spooled()? == 0 && scene.second.spooled()? == 0, "nothing stays in the spools");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_or_is_killed_is_nothing_until_it_is_sent_again() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    import_scenario(&servers()?, async |stage| {
        let mut scene = Scene::set(stage, ROWS).await?;
        let ([first, _], upload) = (scene.addresses(), scene.upload());
        // The client goes.
        let begun = upload.begin(&first, upload.bytes() / 2).await?;
        spool_has(&scene.first, 1).await?;
        drop(begun);
        spool_has(&scene.first, 0).await?;
        scene.holds(0).await?;
        upload.accepted(&first).await?;
        scene.holds(1).await?;
        // Jobs goes.
        let upload = scene.upload();
        let _begun = upload.begin(&first, upload.bytes() / 2).await?;
        spool_has(&scene.first, 1).await?;
        scene.first.kill()?;
        scene.holds(1).await?;
        scene.first.start_again()?;
        scene.first.ready().await?;
        spool_has(&scene.first, 0).await?;
        upload.accepted(&first).await?;
        scene.holds(2).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_jobs_does_not_survive_leaves_nothing_and_the_same_key_makes_the_whole() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    import_scenario(&servers()?, async |stage| {
        let mut scene = Scene::set(stage, MANY_ROWS).await?;
        let [first, second] = scene.addresses();

        // Its successor ends what it left.
        let (upload, before) = in_mid_transaction(&mut scene, 0).await?;
        scene.first.kill()?;
        scene.first.start_again()?;
        scene.first.ready().await?;
        scene.holds(before).await.context("behind the successor")?;
        upload.accepted(&first).await?;
        scene.holds(before + 1).await?;

        // Another instance has the file sent again before there is a successor.
        let (upload, before) = in_mid_transaction(&mut scene, before + 1).await?;
        scene.first.kill()?;
        let import = upload.accepted(&second).await?;
        ensure!(scene.holds(before + 1).await?.contains_key(&import));
        scene.first.start_again()?;
        scene.first.ready().await?;
        spool_has(&scene.first, 0).await?;
        scene.holds(before + 1).await.context("behind a successor that is late")?;

        // Not dead, but frozen: when it goes on the import is another's.
        let (upload, before) = in_mid_transaction(&mut scene, before + 1).await?;
        let import = upload.accepted(&second).await?;
        scene.first.go_on()?;
        spool_has(&scene.first, 0).await?;
        let again = upload.accepted(&first).await?;
        ensure!(again == import && scene.holds(before + 1).await?.contains_key(&import));
        Ok(())
    })
    .await
}

/// Freezes the first instance while an import of its is in the log in part. What ends the transaction is sent only once the last
/// record is acknowledged, so it cannot be on its way. Gives the upload, and how many imports the log holds beside it.
async fn in_mid_transaction(scene: &mut Scene<'_>, mut imports: usize) -> Result<(Upload, usize)> {
    let (first, jobs) = (scene.first.address(), i64::try_from(scene.rows)? / ROWS_PER_JOB);
    for _ in 0..ATTEMPTS {
        let (upload, before) = (scene.upload(), scene.jobs().ends()?.values().sum::<i64>());
        // Its answer is never read. The connection stays for as long as the scene does: a client that goes is another matter.
        scene.open.push(upload.begin(&first, upload.bytes()).await?);
        let end = scene.jobs().grown_beyond(before, DEADLINE)?;
        scene.first.freeze()?;
        ensure!(end > before, "no transaction was opened");
        if scene.jobs().grown_beyond(before, Duration::ZERO)? < before + jobs {
            return Ok((upload, imports));
        }
        scene.first.go_on()?;
        upload.accepted(&first).await?;
        imports += 1;
    }
    bail!("{ATTEMPTS} transactions were whole before they were met")
}
