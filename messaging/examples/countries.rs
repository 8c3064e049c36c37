//! In-memory stores: countries → time zones → events.
//!
//! Two services follow one compacted topic of countries, each for a purpose of its own: one tells which countries share a time
//! zone, the other when an event of local time takes place. Then South Sudan is founded, and ten years later moves its clocks;
//! both services follow without a restart, a request or a database.
//!
//! `cargo run -p messaging --release --example countries`

#![allow(clippy::print_stdout)] // A person reads what an example says.

mod stage;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use devstack::eventually;
use messaging::{
    KvStore, KvStoreConfig,
    kv_store::{Watched, json},
};
use serde::{Deserialize, Serialize};
use stage::Broker;
use tokio::sync::watch;

/// Until a change is seen, on a busy machine.
const SEEN_MAX: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Arguments {
    /// Address of a broker; one is started without it.
    #[arg(long)]
    kafka: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Country {
    name: String,
    zone: String,
    utc_offset_minutes: i32,
}

fn country(code: &str, name: &str, zone: &str, utc_offset_minutes: i32) -> (String, Option<String>) {
    let country = Country { name: name.to_owned(), zone: zone.to_owned(), utc_offset_minutes };
    (code.to_owned(), serde_json::to_string(&country).ok())
}

/// The first service: asks its store whenever it is asked. There is nothing else to keep.
struct TimeZones {
    countries: KvStore<Country>,
}

impl TimeZones {
    fn countries_at(&self, utc_offset_minutes: i32) -> Vec<String> {
        let countries = self.countries.scan("");
        let at = countries.iter().filter(|(_, country)| country.utc_offset_minutes == utc_offset_minutes);
        at.map(|(code, _)| String::from_utf8_lossy(code).into_owned()).collect()
    }
}

/// The second: a country's new offset moves its events, so it reacts to updates.
struct Events {
    /// Event → minute of its day in UTC.
    times: watch::Receiver<BTreeMap<&'static str, i32>>,
}

/// Event, country and minute of the day there.
const EVENTS: [(&str, &str, i32); 3] =
    [("Juba Marathon", "SS", 7 * 60), ("Nairobi Fair", "KE", 9 * 60), ("Lisbon Fado", "PT", 22 * 60)];

impl Events {
    fn start(countries: KvStore<Country>) -> Self {
        let (tell, times) = watch::channel(BTreeMap::new());
        tokio::spawn(async move {
            loop {
                // State and stream begin at one moment: no update falls between the two.
                let (state, mut updates) = countries.watch("");
                let mut offsets: BTreeMap<_, _> = state.into_iter().collect();
                loop {
                    tell.send_replace(times_of(&offsets));
                    match updates.next().await {
                        Some(Watched::Updated(update)) => match update.value {
                            Some(country) => drop(offsets.insert(update.key, country)),
                            None => drop(offsets.remove(&update.key)),
                        },
                        // Too slow: the store has what was missed.
                        Some(Watched::Missed(_)) => break,
                        None => return,
                    }
                }
            }
        });
        Self { times }
    }
}

fn times_of<K: AsRef<[u8]> + Ord>(countries: &BTreeMap<K, Arc<Country>>) -> BTreeMap<&'static str, i32> {
    let offset = |code: &str| {
        let found = countries.iter().find(|(key, _)| key.as_ref() == code.as_bytes());
        found.map(|(_, country)| country.utc_offset_minutes)
    };
    EVENTS.into_iter().filter_map(|(event, code, minute)| Some((event, minute - offset(code)?))).collect()
}

#[tokio::main]
async fn main() -> Result<()> {
    let broker = Broker::at(Arguments::parse().kafka)?;
    let topic = format!("{}.countries", stage::tag());
    broker.create(&topic, 3, &[("cleanup.policy", "compact")]).await?;
    let known = [
        country("KE", "Kenya", "Africa/Nairobi", 180),
        country("SD", "Sudan", "Africa/Khartoum", 180),
        country("PT", "Portugal", "Europe/Lisbon", 0),
    ];
    broker.produce(&topic, known)?;

    let follow = |group: &str| KvStore::start(&broker.settings(), KvStoreConfig::new(&topic, group), json::<Country>);
    let (zones, events) = (TimeZones { countries: follow("time-zones")? }, follow("events")?);
    // A service says that it is ready behind this line.
    zones.countries.caught_up().await?;
    events.caught_up().await?;
    let mut events = Events::start(events);
    println!("loaded: {}", zones.countries.read().len());
    ensure!(zones.countries_at(180) == ["KE", "SD"]);
    let has = |event: &'static str, minute: Option<i32>| {
        move |times: &BTreeMap<&'static str, i32>| times.get(event).copied() == minute
    };
    events.times.wait_for(has("Nairobi Fair", Some(6 * 60))).await?;
    ensure!(!events.times.borrow().contains_key("Juba Marathon"), "there is no such country yet");

    broker.produce(&topic, [country("SS", "South Sudan", "Africa/Juba", 180)])?;
    let seen = eventually("South Sudan is known", SEEN_MAX, async || zones.countries.get("SS"));
    println!("founded: {}", seen.await?.name);
    ensure!(zones.countries_at(180) == ["KE", "SD", "SS"]);
    tokio::time::timeout(SEEN_MAX, events.times.wait_for(has("Juba Marathon", Some(4 * 60))))
        .await
        .context("founded")??;

    broker.produce(&topic, [country("SS", "South Sudan", "Africa/Juba", 120)])?;
    tokio::time::timeout(SEEN_MAX, events.times.wait_for(has("Juba Marathon", Some(5 * 60))))
        .await
        .context("moved")??;
    let moved = eventually("both services know", SEEN_MAX, async || (zones.countries_at(120) == ["SS"]).then_some(()));
    moved.await?;
    ensure!(zones.countries_at(180) == ["KE", "SD"]);
    println!("moved its clocks: the marathon starts an hour later in UTC");
    Ok(())
}
