//! Deliberate bugs of a running writer, each found by the checker. They are put in where the writer cannot see them: as
//! triggers of the view's tables, which lose, double or spoil what it writes. Nothing of it is in the product. A tombstone that has
//! forgotten its delete is not among them: a repeat that goes on to its end heals what that spoils; the fold's tests find it.

use std::time::Duration;

use acceptance::{Chunk, Feed, Model, Record, Service, System, differences, scenario};
use anyhow::{Result, bail, ensure};
use devstack::eventually;

use crate::{PARTITIONS, servers};

const SITES: usize = 120;
const CHUNKS: usize = 60;
/// A bug needs its occasion, such as a repeat that ends between a delete and its tombstone: it must show itself in one of so many
/// random histories.
const HISTORIES: usize = 4;
/// Records of the past at the end of each history: the occasion of a guard that is off. A history may have none of itself, since a
/// tombstone alone ends what can be repeated.
const PAST_MIN: usize = 8;
/// Until a bug must have shown itself, as a difference or as a writer that stands.
const SHOWN_MAX: Duration = Duration::from_secs(30);
const SETTINGS: [(&str, &str); 2] = [("WRITER_BATCH_RECORDS_MAX", "40"), ("WRITER_KEY_CHANGE_WAIT", "1h")];

/// A bug: its name, the table, when its trigger fires, its body (PL/pgSQL), and what the checker says of it.
struct Bug {
    name: &'static str,
    table: &'static str,
    fires: &'static str,
    body: &'static str,
    said: &'static [&'static str],
}

const WRITES: &str = "before insert or update";

const BUGS: [Bug; 11] = [
    Bug {
        name: "a row is lost while its position moves on",
        table: "site_apps",
        fires: WRITES,
        body: "if new.\"offset\" % 17 = 5 then return null; end if; return new;",
        said: &["document ", "stands"],
    },
    Bug {
        name: "the last record of a batch is dropped",
        table: "position",
        fires: "before update",
        body: "delete from site_apps where partition = new.partition and \"offset\" = new.next_offset - 1
                and new.next_offset > old.next_offset; return new;",
        said: &["document ", "stands"],
    },
    Bug {
        name: "an update keeps the old document",
        table: "site_apps",
        fires: "before update",
        body: "new.document := old.document; return new;",
        said: &["document "],
    },
    Bug {
        name: "the guard is off",
        table: "site_apps",
        fires: WRITES,
        body: "if new.deleted_at is null then new.source_position := null; end if; return new;",
        said: &["document "],
    },
    Bug {
        name: "a delete leaves no marker",
        table: "site_apps",
        fires: "before update",
        body:
            "if new.deleted_at is not null then delete from site_apps where site_id = new.site_id; return null; end if;
               return new;",
        said: &["expected none", "stands"],
    },
    Bug {
        name: "an app that was removed stays in the reverse look-up",
        table: "app_site",
        fires: "before delete",
        body: "return null;",
        said: &["app_site "],
    },
    Bug {
        name: "an app that was added is not in the reverse look-up",
        table: "app_site",
        fires: "before insert",
        body: "if hashtext(new.app_id || new.site_id) % 7 = 0 then return null; end if; return new;",
        said: &["app_site "],
    },
    Bug {
        name: "a count goes the wrong way",
        table: "app_count",
        fires: "before update",
        body: "new.sites := old.sites - (new.sites - old.sites); return new;",
        said: &["app_count "],
    },
    Bug {
        name: "a batch is counted twice",
        table: "app_count",
        fires: "before update",
        body: "new.sites := new.sites + (new.sites - old.sites); return new;",
        said: &["app_count "],
    },
    Bug {
        name: "a change is missing in the log",
        table: "change",
        fires: "before insert",
        body: "if new.\"offset\" % 11 = 3 then return null; end if; return new;",
        said: &["change log"],
    },
    Bug {
        name: "the position stays behind",
        table: "position",
        fires: "before update",
        body: "if new.next_offset > old.next_offset then new.next_offset := new.next_offset - 1; end if; return new;",
        said: &["position ", "stands"],
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn each_deliberate_bug_of_a_running_writer_is_found() -> Result<()> {
    let seeds: [u64; HISTORIES] = rand::random();
    let mut unseen = Vec::new();
    for bug in &BUGS {
        match shown(bug, &seeds).await? {
            Some(line) => println!("{}: {}", bug.name, line.chars().take(160).collect::<String>()),
            None => unseen.push(bug.name),
        }
    }
    ensure!(unseen.is_empty(), "seeds {seeds:?}: not found: {unseen:?}");
    Ok(())
}

/// What the checker says of the bug in the first history in which it shows itself; `None` if it does in none.
async fn shown(bug: &Bug, seeds: &[u64]) -> Result<Option<String>> {
    for seed in seeds {
        let (records, model) = history(*seed);
        let found =
            find(bug, &records, &model).await.map_err(|error| error.context(format!("{}, seed {seed}", bug.name)))?;
        if let Some(line) = found.iter().find(|line| bug.said.iter().any(|said| line.contains(said))) {
            return Ok(Some(line.clone()));
        }
    }
    Ok(None)
}

/// The same history without a bug: the writer gets through it, so what is found is the bug.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_bug_nothing_is_found() -> Result<()> {
    let seed: u64 = rand::random();
    let (records, model) = history(seed);
    let none = Bug { name: "none", table: "site_apps", fires: WRITES, body: "return new;", said: &[] };
    let found = find(&none, &records, &model).await.map_err(|error| error.context(format!("seed {seed}")))?;
    ensure!(found.is_empty(), "seed {seed}: {found:#?}");
    Ok(())
}

fn history(seed: u64) -> (Vec<Record>, Model) {
    let mut feed = Feed::new(seed, PARTITIONS, SITES);
    let mut records = feed.snapshot(SITES);
    for _ in 0..CHUNKS {
        let (Chunk::Plain(chunk) | Chunk::Aborted(_, chunk)) = feed.chunk();
        records.extend(chunk);
    }
    records.extend(feed.changes_and_their_past(PAST_MIN));
    let model = Model::of(&records);
    (records, model)
}

/// What the checker says once a writer with this bug has come to the end, or stands.
async fn find(bug: &Bug, records: &[Record], model: &Model) -> Result<Vec<String>> {
    let mut found = Vec::new();
    scenario(&servers()?, PARTITIONS, async |system| {
        install(system, bug).await?;
        system.topic().produce(records)?;
        let writer = system.writer(&SETTINGS)?;
        let ends = system.topic().ends()?;
        if let Some(stands) = reached_or_stands(system, &writer).await? {
            found.push(format!("stands: {stands}"));
        }
        found.extend(differences(system, model, &ends).await?);
        Ok(())
    })
    .await?;
    Ok(found)
}

async fn install(system: &System, bug: &Bug) -> Result<()> {
    let Bug { table, fires, body, .. } = bug;
    let statements = format!(
        "set search_path to view_g1;
         create function bug() returns trigger language plpgsql set search_path to view_g1 as $bug$ begin {body} end $bug$;
         create trigger bug {fires} on {table} for each row execute function bug()"
    );
    Ok(system.primary().await?.batch_execute(&statements).await?)
}

/// Waits until the view is at the end, or the writer says that a partition stands (that is given), or nothing moves any more.
async fn reached_or_stands(system: &System, writer: &Service) -> Result<Option<String>> {
    let ends = system.topic().ends()?;
    let outcome = async || {
        let partitions = writer.conditions().await.ok()?.remove("partitions")?;
        if !partitions.holds {
            return Some(Some(partitions.detail));
        }
        let positions = system.positions(&system.primary().await.ok()?).await.ok()?;
        let at_end =
            ends.iter().all(|(partition, end)| positions.get(partition).is_some_and(|p| p.next_offset == *end));
        at_end.then_some(None)
    };
    match eventually("the writer comes to the end", SHOWN_MAX, outcome).await {
        Ok(outcome) => Ok(outcome),
        Err(_) if writer.is_ready().await => Ok(Some("the view is not at the end".to_owned())),
        Err(error) => bail!(error),
    }
}
