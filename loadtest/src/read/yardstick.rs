//! The yardstick: what a bare select by primary key costs on this machine, now. `pgbench -S -M prepared -c 8` over TCP on
//! the same replica; CPU time of client and server per select, its start and its eight log-ins included.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio_postgres::config::Host;

use crate::cpu;
use crate::database::{Database, sibling};
use crate::stack::{Stack, unused_name};

/// Rows of pgbench's table at scale 1.
const ROWS_PER_SCALE: u64 = 100_000;
const CLIENTS: &str = "8";

/// pgbench's table in a database of its own, and how to reach it.
pub(super) struct Yardstick {
    database: Database,
    replica_url: String,
}

/// What a bare select cost.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Selects {
    pub(super) selects: u64,
    pub(super) selects_per_second: f64,
    pub(super) cpu_us_per_select: BTreeMap<&'static str, f64>,
    /// Client and server together: what ratios refer to.
    pub(super) work_cpu_us_per_select: f64,
}

impl Yardstick {
    /// Makes a table of about as many rows as there are sites.
    pub(super) async fn prepare(stack: &Stack, sites: u64) -> Result<Self> {
        let name = unused_name("pgbench");
        let database = Database::create(stack.primary_url()?, &name).await?;
        let scale = sites.div_ceil(ROWS_PER_SCALE).to_string();
        pgbench(&database.url, &["--initialize", "--quiet", "--scale", &scale]).await?;
        let replica_url = sibling(stack.replica_url()?, &name)?;
        stack.replayed().await?;
        Ok(Self { database, replica_url })
    }

    /// Selects for so long.
    pub(super) async fn measure(&self, stack: &Stack, seconds: u64) -> Result<Selects> {
        let server = stack.replica_pid()?;
        let (server_before, client_before, started) = (cpu::used(server)?, cpu::of_self()?.1, Instant::now());
        let seconds = seconds.to_string();
        let selecting =
            ["--select-only", "--protocol=prepared", "--client", CLIENTS, "--time", &seconds, "--no-vacuum"];
        let told = pgbench(&self.replica_url, &selecting).await?;
        let took = started.elapsed();
        let (server, client) = (cpu::used(server)? - server_before, cpu::of_self()?.1 - client_before);
        let selects = transactions(&told).with_context(|| format!("pgbench tells no count: {told}"))?;
        ensure!(selects > 0, "pgbench has selected nothing");
        let per_select = |used: Duration| used.as_secs_f64() * 1e6 / selects as f64;
        Ok(Selects {
            selects,
            selects_per_second: selects as f64 / took.as_secs_f64(),
            cpu_us_per_select: [("pgbench", per_select(client)), ("replica", per_select(server))].into(),
            work_cpu_us_per_select: per_select(client + server),
        })
    }

    /// Removes the table.
    pub(super) async fn drop(self) -> Result<()> {
        self.database.drop().await
    }
}

/// Runs pgbench to its end; gives what it said. It ends early when its server does.
async fn pgbench(url: &str, args: &[&str]) -> Result<String> {
    let config: tokio_postgres::Config = url.parse()?;
    let (Some(Host::Tcp(host)), Some(port)) = (config.get_hosts().first(), config.get_ports().first()) else {
        anyhow::bail!("pgbench goes over TCP")
    };
    let mut command = Command::new("pgbench");
    command.args(args).args(["--host", host, "--port", &port.to_string()]);
    command.args(["--username", config.get_user().unwrap_or("postgres"), config.get_dbname().unwrap_or_default()]);
    command.env("PGPASSWORD", String::from_utf8_lossy(config.get_password().unwrap_or_default()).as_ref());
    command.stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let output =
        output.context("pgbench can't be run\n  way out: apt-get install postgresql, or --yardstick-seconds 0")?;
    ensure!(output.status.success(), "pgbench failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The count in pgbench's report.
fn transactions(told: &str) -> Option<u64> {
    let line = told.lines().find_map(|line| line.strip_prefix("number of transactions actually processed:"))?;
    line.trim().split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_pgbenchs_report() {
        let told = "scaling factor: 2\nnumber of transactions actually processed: 123456\nnumber of failed transactions: 0 (0.000%)\n";
        assert_eq!(transactions(told), Some(123_456));
        assert_eq!(transactions("number of transactions actually processed: 50/80\n"), Some(50));
        assert_eq!(transactions("pgbench: error"), None);
    }
}
