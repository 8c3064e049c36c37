//! `promote` and `rollback`: another generation is served from one transaction on, and no answer goes back.
//!
//! The generation that takes over must have applied what the other one has served. So one transaction holds the positions of the
//! active one still, waits until the new one has caught up with them, ends the claims of the old one's writers, and switches.
//! Those find their claims over, and are given new ones when [`generation::SETTLE`] is over: until then a reader that has not seen
//! the switch yet serves nothing that the new generation lacks. A writer that meets the hold waits; it is shorter than what
//! writers wait for a lock.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::{Answer, Refused, active, find, held, session};
use crate::{
    config::Config,
    migrate,
    store::generation::{self, Generation},
};

/// How long the new generation may take to come near the active one, which goes on meanwhile.
const APPROACH_MAX: Duration = Duration::from_secs(5);
/// Records that it is caught up with while the active one is held.
const NEAR_RECORDS: i64 = 2_000;
/// How long the active one is held for it.
const HOLD_MAX: Duration = Duration::from_secs(2);
/// How often that is tried.
const HOLDS_MAX: usize = 3;
/// How often positions are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// The server ends the hold of a verb that is frozen; writers wait 5 s for a lock.
const FROZEN_MAX: Duration = Duration::from_secs(4);

/// Which generation takes over, from which, and what is written down about it.
struct Switch<'a> {
    from: Option<(i32, &'static str)>,
    to: i32,
    /// How long ago `to` was left, if it was ever served.
    left_for: Option<Duration>,
    action: &'static str,
    reason: &'a str,
    /// Also when it lacks records that the active one has.
    force: bool,
}

pub(super) async fn promote(config: &Config, number: i32, force: bool, reason: &str) -> anyhow::Result<Answer> {
    let mut connection = session(config).await?;
    let generations = Generation::all(&mut connection).await?;
    let found = find(&generations, number)?;
    if found.is_active() {
        return Ok(Answer { generation: number, state: "active", changed: false, records_behind: None });
    }
    let from = active(&generations).map(|active| active.generation);
    if !force {
        may_be_promoted(&mut connection, found, from).await?;
    }
    let from = from.map(|from| (from, "retired"));
    let left_for = left_for(found);
    switch(config, &mut connection, &Switch { from, to: number, left_for, action: "generation promote", reason, force })
        .await
}

async fn may_be_promoted(connection: &mut PgConnection, found: &Generation, from: Option<i32>) -> anyhow::Result<()> {
    let number = found.generation;
    if found.state != "ready" {
        return Err(Refused::NotReady(number, found.state.clone()).into());
    }
    let Some(from) = from else {
        return Ok(());
    };
    match generation::last_verification(connection, number, from).await? {
        Some(true) => Ok(()),
        Some(false) => Err(Refused::Differs(number, from).into()),
        None => Err(Refused::NotVerified(number, from).into()),
    }
}

pub(super) async fn rollback(config: &Config, reason: &str) -> anyhow::Result<Answer> {
    let mut connection = session(config).await?;
    let generations = Generation::all(&mut connection).await?;
    let active = active(&generations);
    if let Some(active) = active.filter(|active| active.rolled_back) {
        // The same call again, whose first answer was lost: it must not go back a second time.
        return Ok(Answer { generation: active.generation, state: "active", changed: false, records_behind: None });
    }
    let retired = generations.iter().filter(|generation| generation.state == "retired");
    let before = retired.max_by_key(|generation| generation.activation).ok_or(Refused::NothingBefore)?;
    let from = active.map(|active| (active.generation, "ready"));
    // Whoever goes back has a reason to: a generation that nobody has fed meanwhile is served too, and the answer says so.
    let (to, left_for) = (before.generation, left_for(before));
    let switched = Switch { from, to, left_for, action: "generation rollback", reason, force: true };
    switch(config, &mut connection, &switched).await
}

fn left_for(generation: &Generation) -> Option<Duration> {
    Duration::try_from_secs_f64(generation.inactive_seconds?).ok()
}

async fn switch(config: &Config, connection: &mut PgConnection, switch: &Switch<'_>) -> anyhow::Result<Answer> {
    let Some((from, _)) = switch.from else {
        return commit(connection.begin().await?, switch, 0).await;
    };
    let settles = switch.left_for.map(|left_for| generation::SETTLE.saturating_sub(left_for)).unwrap_or_default();
    if !settles.is_zero() {
        tracing::info!(generation = switch.to, wait = ?settles, "readers have only just left it; its writers go on after that");
        tokio::time::sleep(settles).await;
    }
    let approached = approach(config, connection, from, switch.to).await?;
    if approached > NEAR_RECORDS {
        return behind(connection, switch, approached).await;
    }
    let mut left = approached;
    for _ in 0..HOLDS_MAX {
        let mut hold = connection.begin().await?;
        let reached = generation::hold_positions(&mut hold, from, &config.topic, FROZEN_MAX).await.map_err(held)?;
        left = catch_up(&mut hold, config, switch.to, &reached).await?;
        if left == 0 {
            return commit(hold, switch, 0).await;
        }
        hold.rollback().await?;
    }
    behind(connection, switch, left).await
}

/// A generation that does not catch up is served only by force, at once and without a hold that would gain nothing.
async fn behind(connection: &mut PgConnection, switch: &Switch<'_>, records: i64) -> anyhow::Result<Answer> {
    if !switch.force {
        return Err(Refused::Behind(switch.to, records).into());
    }
    tracing::warn!(generation = switch.to, records, "it lacks records that readers have been served: answers go back");
    commit(connection.begin().await?, switch, records).await
}

async fn commit(
    mut transaction: Transaction<'_, Postgres>,
    switch: &Switch<'_>,
    records_behind: i64,
) -> anyhow::Result<Answer> {
    let Switch { from, to, action, reason, force, .. } = *switch;
    let rolled_back = action == "generation rollback";
    generation::switch(&mut transaction, from, to, rolled_back).await.map_err(held)?;
    // The views of the active generation are new, and so without grants.
    migrate::grant_if_roles_exist(&mut transaction, to).await?;
    let from = from.map(|(from, _)| from);
    let detail = serde_json::json!({"generation": to, "from": from, "force": force, "records_behind": records_behind});
    generation::audit(&mut transaction, action, reason, &detail).await?;
    transaction.commit().await?;
    let records_behind = (records_behind > 0).then_some(records_behind);
    Ok(Answer { generation: to, state: "active", changed: true, records_behind })
}

/// Waits until few records are left between the two, or long enough; gives how many are.
async fn approach(config: &Config, connection: &mut PgConnection, from: i32, to: i32) -> Result<i64, sqlx::Error> {
    let started = Instant::now();
    loop {
        let reached = generation::positions(connection, from, &config.topic).await?;
        let left = records_left(&reached, &generation::positions(connection, to, &config.topic).await?);
        if left <= NEAR_RECORDS || started.elapsed() > APPROACH_MAX {
            return Ok(left);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Waits until a generation has reached these positions, or the hold has lasted; gives how many records are left.
async fn catch_up(
    connection: &mut PgConnection,
    config: &Config,
    generation: i32,
    reached: &BTreeMap<i32, i64>,
) -> Result<i64, sqlx::Error> {
    let started = Instant::now();
    loop {
        let left = records_left(reached, &generation::positions(connection, generation, &config.topic).await?);
        if left == 0 || started.elapsed() > HOLD_MAX {
            return Ok(left);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// How many records the second lacks of what the first has.
fn records_left(first: &BTreeMap<i32, i64>, second: &BTreeMap<i32, i64>) -> i64 {
    let left = |(partition, next): (&i32, &i64)| (next - second.get(partition).copied().unwrap_or(0)).max(0);
    first.iter().map(left).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn being_ahead_in_one_partition_does_not_make_up_for_another() {
        let at = |offsets: &[(i32, i64)]| offsets.iter().copied().collect::<BTreeMap<i32, i64>>();
        assert_eq!(records_left(&at(&[(0, 5), (1, 5)]), &at(&[(0, 9), (1, 3)])), 2);
        assert_eq!(records_left(&at(&[(0, 5)]), &at(&[])), 5);
        assert_eq!(records_left(&at(&[]), &at(&[(0, 5)])), 0);
    }
}
