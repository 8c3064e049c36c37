//! `imports torture SEED ROWS KILLS` and `imports storm CLIENTS`: the import of contacts under faults, at any size; see
//! [`acceptance::import_torture`] and [`acceptance::import_storm`].

use acceptance::{ImportTorture, import_storm, import_torture};
use anyhow::{Context, Result, bail};
use devstack::{Devstack, Options, Part, target_dir, unused_state_dir};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let verb = arguments.next().unwrap_or_default();
    let mut number = |what: &str| -> Result<Option<u64>> {
        let given = arguments.next().filter(|text| !text.is_empty());
        given.map(|text| text.parse().with_context(|| format!("{what} is a number, not {text:?}"))).transpose()
    };
    let tests = target_dir()?.join("devstack-tests").join("imports");
    let options = Options::new([Part::Kafka, Part::Postgres], unused_state_dir(&tests)?)?;
    match verb.as_str() {
        "torture" => {
            let seed = number("SEED")?.unwrap_or_else(rand::random);
            let rows = usize::try_from(number("ROWS")?.unwrap_or(1_000_000))?;
            let kills = usize::try_from(number("KILLS")?.unwrap_or(20))?;
            let stack = Devstack::start(options).await?;
            import_torture(stack.endpoints(), ImportTorture { seed, rows, kills }).await
        }
        "storm" => {
            let clients = usize::try_from(number("CLIENTS")?.unwrap_or(5000))?;
            let stack = Devstack::start(options).await?;
            import_storm(stack.endpoints(), clients).await
        }
        _ => bail!("imports torture SEED ROWS KILLS, or imports storm CLIENTS"),
    }
}
