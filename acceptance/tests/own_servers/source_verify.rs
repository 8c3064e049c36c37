//! `writer verify` against a real source: Debezium on Kafka Connect, a slot that is lost, signals that are answered. A
//! devstack of its own, because it takes the connector apart; one test, because a start of Connect is dear.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use acceptance::{Ended, System, View, scenario_on};
use anyhow::{Context, Result, ensure};
use devstack::{Devstack, Options, Part, connect::TOPIC, eventually, postgres, target_dir, unused_state_dir};
use serde_json::{Value, json};
use tokio_postgres::Client;

const PARTITIONS: i32 = 4;
const SITES: i32 = 1_000;
/// Rows of the comparison whose memory is looked at.
const MANY: i32 = 100_000;
/// Resident memory of a comparison, whatever the number of rows: libraries and code take most of it.
const RSS_KIB_MAX: u64 = 64 << 10;
/// Until Debezium must have done something; it starts in the middle of a busy machine.
const DEBEZIUM_MAX: Duration = Duration::from_secs(300);

/// Sites from $1 to $2, each with one to four apps out of twenty.
const INSERT: &str = "insert into meta_site (site_id, owner_id, version, name, installed_apps)
    select md5('site ' || n)::uuid, md5('owner')::uuid, 1, 'site ' || n,
        (select jsonb_agg(jsonb_build_object('appDefId', 'app-' || (n * 7 + a * 3) % 20, 'instanceId', 'i-' || n || '-' || a,
            'version', '1.50', 'status', 'INSTALLED', 'permissions', jsonb_build_array(1.50, 'a'))) from generate_series(0, n % 4) a)
    from generate_series($1::int, $2::int) n";

#[tokio::test(flavor = "multi_thread")]
async fn the_view_is_compared_with_its_source_and_repaired() -> Result<()> {
    let tests = target_dir()?.join("devstack-tests").join("source-verify");
    let options = Options::new([Part::Connect, Part::Postgres], unused_state_dir(&tests)?)?;
    let stack = Devstack::start(options).await?;
    scenario_on(stack.endpoints(), TOPIC, PARTITIONS, async |system| {
        let url = stack.endpoints().source_database_url.clone().context("a source")?;
        let connect = stack.endpoints().connect.clone().context("a worker")?;
        let scene = Scene { system, source: postgres::client(&url).await?, url, connect };
        scene.source.execute(INSERT, &[&1, &SITES]).await?;
        let mut writer = system.writer(&[])?;
        writer.ready().await?;
        scene.caught_up().await?;
        scene.equal_sides_agree().await.context("equal sides")?;
        scene.live_changes_are_no_difference().await.context("live changes")?;
        scene.damage_is_found_and_repaired().await.context("damage")?;
        scene.a_delete_that_no_slot_saw_is_found_and_repaired().await.context("a lost delete")?;
        scene.memory_is_bounded().await.context("many rows")?;
        ensure!(writer.is_running(), "the writer has gone on all the time");
        Ok(())
    })
    .await
}

struct Scene<'s> {
    system: &'s System,
    source: Client,
    url: String,
    connect: String,
}

impl Scene<'_> {
    async fn equal_sides_agree(&self) -> Result<()> {
        let report = report(&self.verify(&[]).await?, 0)?;
        ensure!(report["compared"] == SITES && report["equal"] == SITES, "{report}");
        ensure!(report["differences"] == json!([]) && report["complete"] == true, "{report}");
        // For people, and by a file.
        let file = std::env::temp_dir().join(format!("source-url-{}", std::process::id()));
        std::fs::write(&file, format!("{}\n", self.url))?;
        let ended = self.system.verb(&["verify", "--source-database-url-file", &file.to_string_lossy()], &[]).await?;
        std::fs::remove_file(&file)?;
        ensure!(ended.code == Some(0) && ended.said.contains("view and source agree"), "{ended:?}");
        // Trouble is 1, usage 2; neither shows the password.
        let nowhere = "postgres://u:hidden-word@127.0.0.1:1/nowhere";
        let trouble = self.system.verb(&["verify", "--source-database-url", nowhere], &[]).await?;
        let usage =
            self.system.verb(&["verify", "--source-database-url", "postgres://u:hidden-word@[", "--json"], &[]).await?;
        for (ended, code) in [(trouble, 1), (usage, 2)] {
            ensure!(ended.code == Some(code), "{ended:?}");
            ensure!(!(ended.log + &ended.said).contains("hidden-word"), "the password is shown");
        }
        Ok(())
    }

    async fn live_changes_are_no_difference(&self) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let changes = tokio::spawn(change_on(postgres::client(&self.url).await?, Arc::clone(&stop)));
        for _ in 0..3 {
            let ended = self.verify(&[]).await?;
            report(&ended, 0)?;
        }
        ensure!(!changes.is_finished(), "the changes have gone on all the time");
        stop.store(true, Ordering::Relaxed);
        ensure!(changes.await?? > 100, "there were hardly any changes");
        self.caught_up().await?;
        self.assert_view_is_the_source().await
    }

    /// A damaged document, a row that is gone from one table, apps that are not those of the source.
    async fn damage_is_found_and_repaired(&self) -> Result<()> {
        let empty = "insert into meta_site (site_id, owner_id, version, installed_apps)
            values (md5('empty')::uuid, md5('owner')::uuid, 1, '[]')";
        self.source.batch_execute(empty).await?;
        self.caught_up().await?;
        let [damaged, unreadable, gone, old, empty] =
            [site(11), site(12), site(13), site(14), self.id("select md5('empty')::uuid::text").await?];
        let primary = self.system.primary().await?;
        primary
            .batch_execute(&format!(
                "set search_path to view_g1;
                 update site_apps set document = replace(document, '1.50', '6.66') where site_id = '{damaged}';
                 update site_apps set document = 'nonsense' where site_id = '{unreadable}';
                 delete from site_apps where site_id = '{gone}';
                 update app_count c set sites = sites - 1 from app_site a, site_apps s
                   where a.site_id = '{old}' and s.site_id = a.site_id and c.app_id = a.app_id and c.partition = s.partition;
                 delete from app_site where site_id = '{old}';
                 update site_apps s set etag = e.etag, version = e.version, document = replace(e.document, '{empty}', '{old}')
                   from site_apps e where s.site_id = '{old}' and e.site_id = '{empty}'"
            ))
            .await?;
        let found = report(&self.verify(&["--settle-max", "10s"]).await?, 3)?;
        let expected = [(&damaged, "different"), (&unreadable, "different"), (&gone, "missing"), (&old, "different")];
        ensure!(kinds(&found) == expected.map(|(id, kind)| (id.clone(), kind.to_owned())).into(), "{found}");
        let repaired = report(&self.repair().await?, 0)?;
        ensure!(repaired["repair"] == json!({"found": 4, "removed": 0, "restored": 2, "asked": 4}), "{repaired}");
        // The log does not tell how `old` came to be without apps, so it is left out of its replay.
        self.caught_up().await?;
        self.assert_rows_are_the_source(&View::read(1, &primary).await?).await?;
        report(&self.verify(&[]).await?, 0)?;
        Ok(())
    }

    async fn a_delete_that_no_slot_saw_is_found_and_repaired(&self) -> Result<()> {
        let (lost, primary) = (site(20), self.system.primary().await?);
        self.lose_the_slot_while(&format!("delete from meta_site where site_id = '{lost}'")).await?;
        self.caught_up().await?;
        let found = report(&self.verify(&["--settle-max", "10s"]).await?, 3)?;
        ensure!(kinds(&found) == BTreeMap::from([(lost.clone(), "only-in-view".to_owned())]), "{found}");
        let log_before = log_rows(&primary).await?;
        let repaired = report(&self.repair().await?, 0)?;
        ensure!(repaired["repair"]["removed"] == 1 && repaired["repair"]["asked"] == 0, "{repaired}");
        let marker = primary
            .query_one("select deleted_at is null, source_position from view_g1.site_apps where site_id = $1", &[&lost])
            .await?;
        ensure!(
            !marker.get::<_, bool>(0) && marker.get::<_, Option<String>>(1).is_none(),
            "a marker without a position"
        );
        self.assert_rows_are_the_source(&View::read(1, &primary).await?).await?;
        let newest = "select site_id from view_g1.change c where (partition, \"offset\", ordinal) =
            (select partition, \"offset\", ordinal from view_g1.change d where d.partition = c.partition order by 1, 2 desc, 3 desc limit 1)";
        let newest: BTreeSet<String> = primary.query(newest, &[]).await?.iter().map(|row| row.get(0)).collect();
        ensure!(newest.contains(&lost), "the removal is the newest change of its partition: {newest:?}");
        ensure!(log_rows(&primary).await? == log_before + 1, "the removal is one change");
        let audit =
            "select reason, detail::text from siteview.audit where action = 'verify --repair' and detail::text like $1";
        let audit = primary.query(audit, &[&format!("%{lost}%")]).await?;
        ensure!(audit.len() == 1 && audit[0].get::<_, &str>(0) == "a test of repairs", "audited once");
        // The site may come back, and changes go on.
        self.source.execute(INSERT, &[&20, &20]).await?;
        self.caught_up().await?;
        report(&self.verify(&[]).await?, 0)?;
        self.assert_rows_are_the_source(&View::read(1, &primary).await?).await
    }

    #[expect(clippy::print_stdout, reason = "time and memory are worth reading, and are bounded generously")]
    async fn memory_is_bounded(&self) -> Result<()> {
        for first in (SITES + 1..=MANY).step_by(10_000) {
            self.source.execute(INSERT, &[&first, &(first + 9_999).min(MANY)]).await?;
        }
        self.source.batch_execute("analyze meta_site").await?;
        self.caught_up().await?;
        let started = Instant::now();
        let ended = self.verify(&[]).await?;
        let report = report(&ended, 0)?;
        println!("{MANY} rows: {:?}, {} KiB resident at most, {report}", started.elapsed(), ended.rss_kib_max);
        ensure!(report["compared"].as_i64() >= Some(i64::from(MANY)), "{report}");
        ensure!((1..=RSS_KIB_MAX).contains(&ended.rss_kib_max), "{} KiB resident", ended.rss_kib_max);
        Ok(())
    }

    async fn verify(&self, further: &[&str]) -> Result<Ended> {
        let arguments = [&["verify", "--json"], further].concat();
        self.system.verb(&arguments, &[("WRITER_SOURCE_DATABASE_URL", &self.url)]).await
    }

    async fn repair(&self) -> Result<Ended> {
        self.verify(&["--repair", "--reason", "a test of repairs"]).await
    }

    /// Waits until the view has what the source has: as many sites, and a site that was just inserted in the source.
    async fn caught_up(&self) -> Result<()> {
        let probe = "insert into meta_site (site_id, owner_id, version, installed_apps)
            values (gen_random_uuid(), md5('owner')::uuid, 1, '[{\"appDefId\":\"probe\"}]') returning site_id::text";
        for _ in 0..PARTITIONS * 4 {
            let probe = self.id(probe).await?;
            self.seen(&probe, true).await?;
            self.source.execute("delete from meta_site where site_id = $1::text::uuid", &[&probe]).await?;
            self.seen(&probe, false).await?;
        }
        Ok(())
    }

    async fn seen(&self, site_id: &str, alive: bool) -> Result<()> {
        let primary = self.system.primary().await?;
        let statement = "select count(*) = 1 from view_g1.site_apps where site_id = $1 and deleted_at is null";
        let is =
            async || (primary.query_one(statement, &[&site_id]).await.ok()?.get::<_, bool>(0) == alive).then_some(());
        eventually(&format!("the view has site {site_id}: {alive}"), DEBEZIUM_MAX, is).await
    }

    async fn id(&self, statement: &str) -> Result<String> {
        Ok(self.source.query_one(statement, &[]).await?.get(0))
    }

    /// Removes the connector and its slot, changes the source, and starts a connector that knows nothing: it takes a new
    /// snapshot, which does not tell what is no longer there.
    async fn lose_the_slot_while(&self, change: &str) -> Result<()> {
        let (http, connectors) = (reqwest::Client::new(), format!("{}/connectors", self.connect));
        let config: Value = http.get(format!("{connectors}/metasite/config")).send().await?.json().await?;
        let removed = http.delete(format!("{connectors}/metasite")).send().await?;
        ensure!(removed.status().is_success(), "{removed:?}");
        let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active";
        let dropped = async || (self.source.query(drop, &[]).await.ok()?.len() == 1).then_some(());
        eventually("the slot is let go", DEBEZIUM_MAX, dropped).await?;
        self.source.batch_execute(change).await?;
        // Connect keeps offsets by the connector's name.
        let mut config = config;
        config["name"] = json!("metasite-anew");
        let anew = json!({"name": "metasite-anew", "config": config});
        let made = http.post(&connectors).json(&anew).send().await?;
        ensure!(made.status().is_success(), "{}", made.text().await?);
        Ok(())
    }

    async fn assert_view_is_the_source(&self) -> Result<()> {
        let view = View::read(1, &self.system.primary().await?).await?;
        ensure!(view.illogical.is_empty(), "{:#?}", view.illogical);
        self.assert_rows_are_the_source(&view).await
    }

    /// Documents, memberships and counts, computed from the source's table by SQL alone.
    async fn assert_rows_are_the_source(&self, view: &View) -> Result<()> {
        let statement = "select site_id::text, installed_apps::text from meta_site";
        let (mut memberships, mut sites) = (BTreeSet::new(), BTreeSet::new());
        for row in self.source.query(statement, &[]).await? {
            let (site_id, apps): (String, Value) = (row.get(0), serde_json::from_str(row.get(1))?);
            for app in apps.as_array().context("an array")? {
                let text = |name: &str| app[name].as_str().unwrap_or_default().to_owned();
                memberships.insert((text("appDefId"), site_id.clone(), text("instanceId")));
            }
            let served =
                &view.sites.get(&site_id).with_context(|| format!("the view has no {site_id}"))?.document["apps"];
            ensure!(
                served.as_array().map(Vec::len) == apps.as_array().map(Vec::len),
                "{served} of {site_id}, not {apps}"
            );
            sites.insert(site_id);
        }
        ensure!(view.sites.keys().cloned().collect::<BTreeSet<_>>() == sites, "other sites");
        let missing: Vec<_> = memberships.symmetric_difference(&view.memberships).take(9).collect();
        ensure!(missing.is_empty(), "memberships differ: {missing:?}");
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        let of_sites: BTreeSet<_> = memberships.into_iter().map(|(app, site, _)| (app, site)).collect();
        of_sites.into_iter().for_each(|(app, _)| *counts.entry(app).or_default() += 1);
        ensure!(view.counts == counts, "counts are {:?}, not {counts:?}", view.counts);
        Ok(())
    }
}

fn site(number: i32) -> String {
    SITE_IDS.iter().find(|(n, _)| *n == number).expect("one of those listed").1.to_owned()
}

/// `md5('site ' || n)` as uuid, of the sites that are damaged.
const SITE_IDS: [(i32, &str); 5] = [
    (11, "099b204f-ffc1-e20f-4389-058e49947e03"),
    (12, "b95de8f7-2b71-762e-5c23-b10ae5b2934c"),
    (13, "0280bce2-be4c-8997-faab-afb4110e4374"),
    (14, "60822c71-e441-932b-b27b-2c87a96fe765"),
    (20, "8b8e92a2-94bf-c198-6e4b-b116a65e11bb"),
];

async fn log_rows(primary: &Client) -> Result<i64> {
    Ok(primary.query_one("select count(*) from view_g1.change", &[]).await?.get(0))
}

/// The report of a verb that must have ended with this code.
fn report(ended: &Ended, code: i32) -> Result<Value> {
    ensure!(ended.code == Some(code), "not exit code {code}: {ended:?}");
    Ok(serde_json::from_str(&ended.said)?)
}

fn kinds(report: &Value) -> BTreeMap<String, String> {
    let text = |line: &Value, member: &str| line[member].as_str().unwrap_or_default().to_owned();
    let lines = report["differences"].as_array().cloned().unwrap_or_default();
    lines.iter().map(|line| (text(line, "site_id"), text(line, "kind"))).collect()
}

/// Changes that never pause: a few sites over and over, others deleted and inserted again. Gives how many.
async fn change_on(source: Client, stop: Arc<AtomicBool>) -> Result<u64> {
    let update = "update meta_site set version = version + 1, installed_apps = jsonb_set(installed_apps, '{0,version}', to_jsonb($2::text))
        where site_id = md5('site ' || $1::int)::uuid";
    let delete = "delete from meta_site where site_id = md5('site ' || $1::int)::uuid";
    let mut changes = 0;
    while !stop.load(Ordering::Relaxed) {
        let number = i32::try_from(changes % 97)?;
        // A hot site, a site in turn, and one that comes and goes.
        source.execute(update, &[&5, &format!("{changes}")]).await?;
        source.execute(update, &[&(200 + number), &format!("{changes}")]).await?;
        source.execute(delete, &[&(400 + number)]).await?;
        source.execute(INSERT, &[&(400 + number), &(400 + number)]).await?;
        changes += 4;
    }
    Ok(changes)
}
