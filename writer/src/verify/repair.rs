//! `--repair`: what only the verb can put right, then what Debezium is asked for, then another look.

use anyhow::Context as _;
use serde_json::json;

use super::{Candidate, Verification, compare::Difference, report::Repaired, settle::Patience, signal};
use crate::store::{self, Store};

impl Verification<'_> {
    /// Repairs these sites. Gives what was done, and the sites that differ in the end.
    pub(super) async fn repair(
        &mut self,
        found: Vec<Candidate>,
        reason: &str,
    ) -> anyhow::Result<(Repaired, Vec<Candidate>)> {
        let mut repaired = self.put_right(&found, reason).await?;
        repaired.found = found.len() as u64;
        let (mut ask, mut left): (Vec<_>, Vec<_>) = found.into_iter().partition(is_for_debezium);
        for (data, count) in self.snapshots(&ask)? {
            let asked: Vec<Candidate> = ask.drain(..count).collect();
            self.audit_signal(reason, &asked).await?;
            let signals = self.signals.as_mut().context("a repair has the signal table")?;
            signals.execute_snapshot(&data).await?;
            repaired.asked += count as u64;
            let remaining = self.settle(asked, Patience::ToTheEnd).await?;
            let is_answered = remaining.is_empty();
            left.extend(remaining);
            if !is_answered {
                // A connector that does not answer one signal is not sent the next.
                break;
            }
        }
        left.append(&mut ask);
        // What the verb has done is looked at again as everything else is.
        let left = self.settle(left, Patience::UntilProven).await?;
        Ok((repaired, left))
    }

    fn snapshots(&self, ask: &[Candidate]) -> anyhow::Result<Vec<(String, usize)>> {
        let keys: Vec<String> = ask.iter().map(|candidate| candidate.site_id.clone()).collect();
        let (table, key) = (&self.settings.source_table, &self.settings.columns.key);
        let data_max = self.signals.as_ref().context("a repair has the signal table")?.data_max;
        Ok(signal::snapshots(table, key, &keys, data_max))
    }

    async fn audit_signal(&mut self, reason: &str, sites: &[Candidate]) -> anyhow::Result<()> {
        let options = store::connect_options(&self.config.database, &format!("view_g{}", self.generation));
        let mut store = Store::new(options, self.config.topic.as_str().into(), "writer verify".into());
        let mut transaction = store.begin().await?;
        let asked: Vec<&str> = sites.iter().map(|site| site.site_id.as_str()).collect();
        let detail = json!({"generation": self.generation, "topic": self.config.topic, "asked": asked});
        transaction.audit("verify --repair", reason, &detail).await?;
        Ok(transaction.commit().await?)
    }
}

fn is_for_debezium(candidate: &Candidate) -> bool {
    matches!(candidate.difference, Difference::Missing | Difference::Different { .. })
}
