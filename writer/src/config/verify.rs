//! What `writer verify` can be told, beside what every verb can.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use shared::config::{Invalid, Secret, duration_between, secret_from};
use sqlx::postgres::PgConnectOptions;

use super::{SECOND, count, postgres_url};
use crate::{
    projection::Projection,
    verify::{Columns, Table},
};

const HOUR: Duration = Duration::from_secs(3600);

/// Arguments of `writer verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// The source's primary as a postgres:// URL; required, here or by the file
    #[arg(long, env = "WRITER_SOURCE_DATABASE_URL", hide_env_values = true)]
    source_database_url: Option<Secret>,

    /// File that holds the source's URL, for mounted secrets; instead of the URL
    #[arg(long, env = "WRITER_SOURCE_DATABASE_URL_FILE", value_name = "PATH")]
    source_database_url_file: Option<PathBuf>,

    /// The source's table, schema.table [default: the last two parts of the topic, as Debezium names it]
    #[arg(long, value_name = "TABLE")]
    source_table: Option<String>,

    /// Rows of each side in memory at a time; it bounds the memory
    #[arg(long, default_value = "1000", value_parser = count(1, 100_000))]
    chunk_rows: usize,

    /// How long a difference is looked at again before it counts, duration; longer than changes need to arrive and than
    /// Connect's offset.flush.interval.ms. Also how long a repair may take to be seen in the view
    #[arg(long, default_value = "90s", value_parser = duration_between(SECOND, HOUR))]
    settle_max: Duration,

    /// Repair what differs: rows by an incremental snapshot of Debezium, rows that the source has deleted by this verb
    #[arg(long)]
    repair: bool,

    /// Why it is repaired, for the audit table (siteview.audit)
    #[arg(long, value_name = "TEXT", default_value = "the view differed from the source", requires = "repair")]
    reason: String,

    /// Debezium's signal table in the source, schema.table; the connector's `signal.data.collection`
    #[arg(long, default_value = "public.debezium_signal", value_name = "TABLE")]
    signal_table: String,
}

/// The checked settings of `writer verify`; what its values mean stands at [`VerifyArgs`].
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each is described once, in the help text of its argument")]
pub struct VerifySettings {
    pub source: PgConnectOptions,
    pub source_table: Table,
    /// The columns of the table that the projection reads.
    pub columns: Columns,
    pub chunk_rows: usize,
    pub settle_max: Duration,
    /// The reason of a repair; none when it shall only be compared.
    pub repair: Option<String>,
    pub signal_table: Table,
}

impl VerifyArgs {
    /// Checks what clap can't. Names what is wrong, shows no secret.
    pub(super) fn check(&self, topic: &str, projection: &Projection) -> Result<VerifySettings, Invalid> {
        const URL: &str = "WRITER_SOURCE_DATABASE_URL";
        let url = secret_from(URL, self.source_database_url.clone(), self.source_database_url_file.clone())?
            .ok_or_else(|| Invalid::new(URL, "is required: the source's postgres:// URL (--source-database-url)"))?;
        Ok(VerifySettings {
            source: postgres_url(URL, url.expose())?,
            source_table: self.source_table(topic)?,
            columns: Columns::of(projection).map_err(|why| Invalid::new("WRITER_PROJECTION", why))?,
            chunk_rows: self.chunk_rows,
            settle_max: self.settle_max,
            repair: self.repair.then(|| self.reason.clone()),
            signal_table: table("--signal-table", &self.signal_table)?,
        })
    }

    fn source_table(&self, topic: &str) -> Result<Table, Invalid> {
        if let Some(name) = &self.source_table {
            return table("--source-table", name);
        }
        let mut parts = topic.rsplitn(3, '.');
        let name = parts.next().zip(parts.next()).map(|(table, schema)| format!("{schema}.{table}"));
        let unnamed = || Invalid::new("--source-table", format!("is required: the topic {topic} names no table"));
        table("--source-table", &name.ok_or_else(unnamed)?)
    }
}

fn table(flag: &str, name: &str) -> Result<Table, Invalid> {
    let named = name.split_once('.').filter(|(schema, table)| !schema.is_empty() && !table.is_empty());
    let (schema, table) = named.ok_or_else(|| Invalid::new(flag, format!("{name:?} is not schema.table")))?;
    Ok(Table { schema: schema.to_owned(), name: table.to_owned() })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Verb {
        #[command(flatten)]
        args: VerifyArgs,
    }

    fn settings(topic: &str, args: &[&str]) -> Result<VerifySettings, String> {
        let given = ["verify", "--source-database-url", "postgres://u:secret@h/d"];
        let verb = Verb::try_parse_from(given.iter().chain(args).copied()).map_err(|error| error.to_string())?;
        verb.args.check(topic, &Projection::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_table_is_that_of_the_topic_unless_another_is_named() {
        for (topic, args, table) in [
            ("metasite.public.meta_site", &[][..], ("public", "meta_site")),
            ("eu.prod.sales.site", &[], ("sales", "site")),
            ("sites", &["--source-table", "public.site.v2"], ("public", "site.v2")),
        ] {
            let found = settings(topic, args).expect("valid").source_table;
            assert_eq!((found.schema.as_str(), found.name.as_str()), table);
        }
        assert!(settings("sites", &[]).expect_err("no table").contains("--source-table"));
        assert!(settings("a.b.c", &["--signal-table", "signal"]).expect_err("no schema").contains("--signal-table"));
    }

    #[test]
    fn a_repair_is_asked_for_and_may_have_a_reason_of_its_own() {
        let repair = |args: &[&str]| settings("a.b.c", args).expect("valid").repair;
        assert_eq!(repair(&[]), None);
        assert_eq!(repair(&["--repair"]).as_deref(), Some("the view differed from the source"));
        assert_eq!(repair(&["--repair", "--reason", "slot lost"]).as_deref(), Some("slot lost"));
        assert!(settings("a.b.c", &["--reason", "x"]).expect_err("no repair").contains("--repair"));
    }
}
