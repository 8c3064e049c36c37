//! The checker itself: it finds nothing where all is well, and each deliberate corruption.

use acceptance::{differences, scenario};
use anyhow::{Result, ensure};

use crate::{PARTITIONS, drained_history, servers};

/// What is done to the view, what the checker must say, and how it is undone.
const CORRUPTIONS: [(&str, &str, &str); 10] = [
    (
        "update site_apps set document = replace(document, '.0\"', '.9\"') where site_id = $SITE",
        "document \"site-",
        "update site_apps set document = replace(document, '.9\"', '.0\"') where site_id = $SITE",
    ),
    (
        "update site_apps set version = version + 1 where site_id = $SITE",
        "version \"site-",
        "update site_apps set version = version - 1 where site_id = $SITE",
    ),
    (
        "update site_apps set deleted_at = now() where site_id = $SITE",
        "is missing",
        "update site_apps set deleted_at = null where site_id = $SITE",
    ),
    (
        "insert into site_apps (site_id, partition, \"offset\", document, etag, source_epoch)
         values ('ghost', 0, 0, '{\"site_id\":\"ghost\",\"apps\":[]}', '0-', 0)",
        "document \"ghost\"",
        "delete from site_apps where site_id = 'ghost'",
    ),
    (
        "create table taken as select * from app_site where site_id = $SITE;
         delete from app_site where site_id = $SITE",
        "app_site (\"app-",
        "insert into app_site select * from taken; drop table taken",
    ),
    (
        "insert into app_site values ('ghost', 'ghost', '')",
        "app_site (\"ghost\"",
        "delete from app_site where app_id = 'ghost'",
    ),
    (
        "update app_count set sites = sites + 1 where (app_id, partition) = (select app_id, partition from app_count order by 1, 2 limit 1)",
        "app_count \"app-",
        "update app_count set sites = sites - 1 where (app_id, partition) = (select app_id, partition from app_count order by 1, 2 limit 1)",
    ),
    (
        "update position set next_offset = next_offset - 1 where partition = 2",
        "position 2",
        "update position set next_offset = next_offset + 1 where partition = 2",
    ),
    (
        "create table taken as select * from change where site_id = $SITE;
         delete from change where site_id = $SITE",
        "change log",
        "insert into change select * from taken; drop table taken",
    ),
    (
        "update change set event = replace(event, '\"added\":', '\"ignored\":') where site_id = $SITE",
        "change log at",
        "update change set event = replace(event, '\"ignored\":', '\"added\":') where site_id = $SITE",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_corruption_of_the_view_is_found_on_both_servers() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let (_, model) = drained_history(system, 11, 600).await?;
        let ends = system.topic().ends()?;
        let found = differences(system, &model, &ends).await?;
        ensure!(found.is_empty(), "a view that is right: {found:#?}");

        let primary = system.primary().await?;
        primary.batch_execute("set search_path to view_g1").await?;
        let with_apps = "select site_id from app_site where app_id <> '' order by site_id limit 1";
        let site_id: String = primary.query_one(with_apps, &[]).await?.get(0);
        for (corrupt, said, undo) in CORRUPTIONS {
            let statement = |text: &str| text.replace("$SITE", &format!("'{site_id}'"));
            primary.batch_execute(&statement(corrupt)).await?;
            let found = differences(system, &model, &ends).await?;
            for server in ["primary", "replica"] {
                let tells = |line: &String| line.starts_with(server) && line.contains(said);
                ensure!(found.iter().any(tells), "{server}, after {corrupt}: {found:#?}");
            }
            primary.batch_execute(&statement(undo)).await?;
        }
        let found = differences(system, &model, &ends).await?;
        ensure!(found.is_empty(), "every corruption was undone: {found:#?}");
        Ok(())
    })
    .await
}
