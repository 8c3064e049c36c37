//! `api SCRIPT`: runs a script against a reader with data in it; `READER_URL` says where, `TARGET` where it may keep things.

use std::process::Command;

use acceptance::{Source, scenario};
use anyhow::{Context, Result, ensure};
use devstack::{Part, target_dir};

const PARTITIONS: i32 = 3;

#[tokio::main]
async fn main() -> Result<()> {
    let script = std::env::args().nth(1).context("usage: api SCRIPT")?;
    let servers = devstack::shared(&[Part::Kafka, Part::Postgres])?;
    scenario(&servers, PARTITIONS, async |system| {
        system.topic().produce(&Source::new(1, PARTITIONS, 500).records(3000))?;
        let mut writer = system.writer(&[])?;
        writer.ready().await?;
        system.drained().await?;
        system.replica_caught_up().await?;
        let mut reader = system.reader(&[])?;
        reader.ready().await?;
        let target = target_dir()?.join("api");
        let status = Command::new(&script).env("READER_URL", reader.url()).env("TARGET", &target).status();
        let status = status.with_context(|| script.clone())?;
        ensure!(status.success(), "{script} ended with {status}");
        ensure!(reader.is_running(), "the reader ended: {}", reader.log()?);
        Ok(())
    })
    .await
}
