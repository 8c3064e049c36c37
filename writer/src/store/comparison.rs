//! Two generations side by side. Both lie in one database, so they are compared row by row inside it, in chunks: exact, and
//! only what differs travels.
//!
//! Every chunk is a short read of its own: a long snapshot would keep vacuum from the live generation.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

/// Rows of each side in one chunk.
pub const CHUNK_ROWS: i64 = 5_000;
/// Apps in one chunk of the comparison of counts.
const CHUNK_APPS: i64 = 200;

/// The generations that are compared: the one in question, and the one that it shall replace.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// The one in question.
    pub generation: i32,
    /// The one it is compared with.
    pub against: i32,
}

/// Primary key of `app_site`: app, site, instance.
pub type MembershipKey = (String, String, String);

/// What one chunk of a table holds that is not on both sides.
#[derive(Debug)]
pub struct Chunk<K> {
    /// Where the next chunk begins; `None` behind the last.
    pub upto: Option<K>,
    /// Keys of the rows that differ, or are on one side only.
    pub differing: Vec<K>,
    /// Rows of the generation in question.
    pub rows: i64,
}

/// What is known of a site that differed a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the same on both sides.
    Same,
    /// Both sides have applied all that either says about it, and it differs.
    Differs,
    /// One side has applied records of it that the other has still to come to.
    Undecided,
}

/// Rows of both sides to go through, as Postgres estimates them; for the progress only.
pub async fn estimate(connection: &mut PgConnection, pair: Pair) -> Result<u64, sqlx::Error> {
    let of = |table: &str| format!("to_regclass('view_g{}.{table}')", pair.generation);
    let statement = format!(
        "select coalesce(sum(greatest(reltuples, 0)), 0)::bigint from pg_class where oid in ({}, {})",
        of("site_apps"),
        of("app_site")
    );
    let rows: i64 = sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(connection).await?;
    Ok(rows.unsigned_abs())
}

/// Compares the sites behind a key: whether they exist, version, tag and document.
pub async fn sites(connection: &mut PgConnection, pair: Pair, after: &str) -> Result<Chunk<String>, sqlx::Error> {
    let mut bounds: Vec<String> = Vec::new();
    for generation in [pair.generation, pair.against] {
        let bound = format!(
            "select site_id from view_g{generation}.site_apps where site_id > $1 order by site_id offset $2 limit 1"
        );
        let bound = sqlx::query_scalar(AssertSqlSafe(bound)).bind(after).bind(CHUNK_ROWS - 1);
        bounds.extend(bound.fetch_optional(&mut *connection).await?);
    }
    let upto = bounds.into_iter().min();
    // Not a parameter that may be null: the planner must see a range of the primary key.
    let range = if upto.is_some() { "site_id > $1 and site_id <= $2" } else { "site_id > $1 and $2::text is null" };
    let differing = site_differences(pair, range, "true");
    let differing = format!("select site_id from ({differing}) d where not same");
    let differing = sqlx::query_scalar(AssertSqlSafe(differing)).bind(after).bind(&upto);
    let differing = differing.fetch_all(&mut *connection).await?;
    let rows = format!("select count(*) from view_g{}.site_apps where {range}", pair.generation);
    let rows = sqlx::query_scalar(AssertSqlSafe(rows)).bind(after).bind(&upto).fetch_one(connection).await?;
    Ok(Chunk { upto, differing, rows })
}

/// One row per site of the range that exists on some side: whether it is the same, and which record each side has from.
fn site_differences(pair: Pair, range: &str, condition: &str) -> String {
    // What a marker keeps of a deleted site is nobody's answer.
    let side = |generation: i32| {
        format!(
            r#"(select site_id, partition, "offset", deleted_at is null as live,
                       case when deleted_at is null then version end as version,
                       case when deleted_at is null then etag end as etag,
                       case when deleted_at is null then document end as document
                from view_g{generation}.site_apps where {range})"#
        )
    };
    format!(
        r#"select site_id, n.partition, n."offset", a.partition, a."offset",
                  (coalesce(n.live, false), n.version, n.etag, n.document)
                      is not distinct from (coalesce(a.live, false), a.version, a.etag, a.document) as same
           from {} n full join {} a using (site_id) where {condition}"#,
        side(pair.generation),
        side(pair.against)
    )
}

/// Compares the memberships behind a key.
pub async fn memberships(
    connection: &mut PgConnection,
    pair: Pair,
    after: &MembershipKey,
) -> Result<Chunk<MembershipKey>, sqlx::Error> {
    const KEY: &str = "app_id, site_id, instance_id";
    let (app, site, instance) = after;
    let mut bounds: Vec<MembershipKey> = Vec::new();
    for generation in [pair.generation, pair.against] {
        let bound = format!(
            "select {KEY} from view_g{generation}.app_site where ({KEY}) > ($1, $2, $3) order by {KEY} offset $4 limit 1"
        );
        let bound = sqlx::query_as(AssertSqlSafe(bound)).bind(app).bind(site).bind(instance).bind(CHUNK_ROWS - 1);
        bounds.extend(bound.fetch_optional(&mut *connection).await?);
    }
    // The columns' collation is "C": bytes decide here as there.
    let upto = bounds.into_iter().min();
    let end =
        if upto.is_some() { "<= ($4, $5, $6)" } else { "is not null and num_nulls($4::text, $5::text, $6::text) = 3" };
    let range = format!("({KEY}) > ($1, $2, $3) and ({KEY}) {end}");
    let side =
        |generation: i32| format!("(select {KEY}, true as there from view_g{generation}.app_site where {range})");
    let differing = format!(
        "select {KEY} from {} n full join {} a using ({KEY}) where n.there is null or a.there is null",
        side(pair.generation),
        side(pair.against)
    );
    let (to_app, to_site, to_instance) = match &upto {
        Some((app, site, instance)) => (Some(app), Some(site), Some(instance)),
        None => (None, None, None),
    };
    let differing = sqlx::query_as(AssertSqlSafe(differing)).bind(app).bind(site).bind(instance);
    let differing = differing.bind(to_app).bind(to_site).bind(to_instance).fetch_all(&mut *connection).await?;
    let rows = format!("select count(*) from view_g{}.app_site where {range}", pair.generation);
    let rows = sqlx::query_scalar(AssertSqlSafe(rows)).bind(app).bind(site).bind(instance);
    let rows = rows.bind(to_app).bind(to_site).bind(to_instance).fetch_one(connection).await?;
    Ok(Chunk { upto, differing, rows })
}

/// Compares the counts of a generation with its own memberships, behind an app: counts are sums over what writers have
/// applied, so those of two generations that are fed are never of one moment.
pub async fn counts(connection: &mut PgConnection, generation: i32, after: &str) -> Result<Chunk<String>, sqlx::Error> {
    let bound = format!(
        "select distinct app_id from view_g{generation}.app_count where app_id > $1 order by app_id offset $2 limit 1"
    );
    let bound = sqlx::query_scalar(AssertSqlSafe(bound)).bind(after).bind(CHUNK_APPS - 1);
    let upto: Option<String> = bound.fetch_optional(&mut *connection).await?;
    let range = if upto.is_some() { "app_id > $1 and app_id <= $2" } else { "app_id > $1 and $2::text is null" };
    let statement = format!(
        "select app_id
         from (select app_id, sum(sites) as sites from view_g{generation}.app_count where {range} group by app_id) c
         full join (select app_id, count(distinct site_id) as sites from view_g{generation}.app_site
                    where {range} group by app_id) m using (app_id)
         where coalesce(c.sites, 0) <> coalesce(m.sites, 0)"
    );
    let differing = sqlx::query_scalar(AssertSqlSafe(statement)).bind(after).bind(&upto).fetch_all(connection).await?;
    Ok(Chunk { upto, differing, rows: 0 })
}

/// Looks again at sites that differed, with those memberships of them that did, in one snapshot of both sides and of their
/// positions. A site that is on neither side any more is the same.
pub async fn check(
    connection: &mut PgConnection,
    pair: Pair,
    topic: &str,
    candidates: &BTreeMap<String, Vec<MembershipKey>>,
) -> Result<BTreeMap<String, Verdict>, sqlx::Error> {
    let mut snapshot = connection.begin().await?;
    sqlx::raw_sql("set transaction isolation level repeatable read, read only").execute(&mut *snapshot).await?;
    let of_generation = super::generation::positions(&mut snapshot, pair.generation, topic).await?;
    let of_against = super::generation::positions(&mut snapshot, pair.against, topic).await?;
    let unequal = unequal_memberships(&mut snapshot, pair, candidates).await?;
    let statement = site_differences(pair, "site_id = any($1)", "true");
    let site_ids: Vec<&str> = candidates.keys().map(String::as_str).collect();
    let rows = sqlx::query(AssertSqlSafe(statement)).bind(site_ids).fetch_all(&mut *snapshot).await?;
    snapshot.commit().await?;
    let mut verdicts: BTreeMap<String, Verdict> =
        candidates.keys().map(|site_id| (site_id.clone(), Verdict::Same)).collect();
    // Without a row on either side nothing says which record the memberships are from.
    verdicts.extend(unequal.iter().map(|site_id| (site_id.clone(), Verdict::Differs)));
    for row in rows {
        let site_id: String = row.try_get(0)?;
        let has_passed = |partition: Option<i32>, offset: Option<i64>, positions: &BTreeMap<i32, i64>| {
            let place = partition.zip(offset);
            place.is_none_or(|(partition, offset)| positions.get(&partition).is_some_and(|next| *next > offset))
        };
        let decided = has_passed(row.try_get(1)?, row.try_get(2)?, &of_against)
            && has_passed(row.try_get(3)?, row.try_get(4)?, &of_generation);
        let same = row.try_get::<bool, _>(5)? && !unequal.contains(&site_id);
        let verdict = match (same, decided) {
            (true, _) => Verdict::Same,
            (false, true) => Verdict::Differs,
            (false, false) => Verdict::Undecided,
        };
        verdicts.insert(site_id, verdict);
    }
    Ok(verdicts)
}

/// The sites of which some of these memberships are on one side only.
async fn unequal_memberships(
    connection: &mut PgConnection,
    pair: Pair,
    candidates: &BTreeMap<String, Vec<MembershipKey>>,
) -> Result<std::collections::BTreeSet<String>, sqlx::Error> {
    let keys: Vec<&MembershipKey> = candidates.values().flatten().collect();
    if keys.is_empty() {
        return Ok(Default::default());
    }
    let there = |generation: i32| {
        format!(
            "exists (select from view_g{generation}.app_site s
                     where s.app_id = u.app_id and s.site_id = u.site_id and s.instance_id = u.instance_id)"
        )
    };
    let statement = format!(
        r#"select distinct u.site_id from unnest($1::text[], $2::text[], $3::text[]) as u (app_id, site_id, instance_id)
           where {} <> {}"#,
        there(pair.generation),
        there(pair.against)
    );
    let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(statement))
        .bind(keys.iter().map(|key| key.0.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.1.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.2.as_str()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().collect())
}
