//! `drop`: row and schema in one transaction, once no reader can still be at work in it.

use std::time::Duration;

use sqlx::Connection;

use super::{Answer, Refused, held, session};
use crate::{
    config::Config,
    store::generation::{self, Generation},
};

/// How long a generation must have been out of service. Readers leave it as soon as they see the switch, within their
/// sampling interval; a request of theirs that began before it may take its whole deadline (5 s by default).
const OUT_OF_SERVICE_MIN: Duration = Duration::from_secs(6);

pub(super) async fn remove(config: &Config, number: i32, reason: &str) -> anyhow::Result<Answer> {
    let mut connection = session(config).await?;
    let generations = Generation::all(&mut connection).await?;
    let Some(found) = generations.iter().find(|generation| generation.generation == number) else {
        return match generation::was_given(&mut connection, number).await? {
            true => Ok(Answer { generation: number, state: "dropped", changed: false, records_behind: None }),
            false => Err(Refused::Unknown(number).into()),
        };
    };
    if found.is_active() {
        return Err(Refused::Active(number).into());
    }
    if let Some(inactive) = found.inactive_seconds {
        let inactive = Duration::try_from_secs_f64(inactive).unwrap_or_default();
        tokio::time::sleep(OUT_OF_SERVICE_MIN.saturating_sub(inactive)).await;
    }
    let mut transaction = connection.begin().await?;
    generation::remove(&mut transaction, number).await.map_err(held)?;
    let detail = serde_json::json!({"generation": number, "state": found.state});
    generation::audit(&mut transaction, "generation drop", reason, &detail).await?;
    transaction.commit().await?;
    Ok(Answer { generation: number, state: "dropped", changed: true, records_behind: None })
}
