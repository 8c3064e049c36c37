//! From the records that jobs writes to the frame in the browser, through a real importer and a real Postgres.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use devstack::eventually;
use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
};
use serde_json::json;
use shared::import::{Columns, ImportId, JobRecord, Mode, ProgressCommand, Row};

use crate::stage::{DEADLINE, Stage, kinds};

struct Importer(Child);

impl Importer {
    /// In the server's own database, which no other test uses; returns when the topics are there and it works.
    async fn start(stage: &Stage) -> Result<Self> {
        let binary = devstack::bin_dir()?.join("importer");
        let migrated = Command::new(&binary).args(["migrate", "--database-url", &stage.database_url]).output()?;
        ensure!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        let admin = format!("127.0.0.1:{}", devstack::free_port()?);
        let mut command = Command::new(&binary);
        command.args(["--kafka-bootstrap-servers", &stage.servers, "--database-url", &stage.database_url]);
        command.args(["--topic-prefix", &stage.prefix, "--group", &stage.prefix, "--topic-partitions", "3"]);
        command.args(["--admin-listen", &admin, "--rust-log", "warn"]);
        let importer = Self(command.stdin(Stdio::null()).spawn().context("importer")?);
        let (http, ready) = (reqwest::Client::new(), format!("http://{admin}/readyz"));
        let is_ready = async || http.get(&ready).send().await.is_ok_and(|it| it.status() == 200).then_some(());
        eventually("the importer is ready", DEADLINE, is_ready).await?;
        Ok(importer)
    }
}

impl Drop for Importer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn job_records_become_a_completed_frame_in_the_browser() -> Result<()> {
    let stage = Stage::new().await?;
    let notifier = stage.notifier(&[]).await?;
    let _importer = Importer::start(&stage).await?;
    let (channel, import_id) = (notifier.channel().await?, ImportId::new());
    let mut browser = notifier.listen(&channel, "").await?;
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &stage.servers).create()?;
    let produce = async |topic: &str, key: String, value: String| {
        let topic = format!("{}{topic}", stage.prefix);
        let sent = producer.send(FutureRecord::to(&topic).key(&key).payload(&value), DEADLINE).await;
        sent.map(drop).map_err(|(error, _)| anyhow::Error::from(error))
    };
    let open = ProgressCommand::Open {
        channel_id: channel.clone(),
        owner_id: stage.prefix.clone(),
        jobs: 2,
        rows: 4,
        mode: Mode::Import,
    };
    produce("import.progress.commands", import_id.to_string(), serde_json::to_string(&open)?).await?;
    for job in 0..2 {
        let row = |line: u64, email: &str| Row(line, vec![email.to_owned()]);
        let record = JobRecord {
            import_id,
            channel_id: channel.clone(),
            owner_id: stage.prefix.clone(),
            job,
            jobs: 2,
            mode: Mode::Import,
            first_line: 2,
            fields: 1,
            columns: Columns { email: 0, name: None, phone: None },
            rows: vec![row(2, &format!("u{job}@example.org")), row(3, "bad")],
        };
        produce("import.jobs", record.key(), serde_json::to_string(&record)?).await?;
    }
    let told = browser.until("completed").await?;
    ensure!(kinds(&told[..2]) == ["hello", "accepted"], "{told:?}");
    let last = &told.last().context("a frame")?.whole;
    let members =
        ["jobs", "jobs_done", "rows", "imported", "updated", "skipped", "failed"].map(|name| last[name].clone());
    ensure!(json!(members) == json!([2, 2, 4, 2, 0, 0, 2]) && last["state"] == "completed", "{last}");
    Ok(())
}
