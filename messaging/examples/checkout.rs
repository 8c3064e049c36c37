//! Events in transactions: payment completed → checkout completed → delivery, inventory, invoices.
//!
//! Each arrow is a service that consumes and produces in one Kafka transaction. They run as processes of their own and are killed
//! at random, and a guest joins and leaves meanwhile; in the end each order has exactly one checkout, one delivery and one invoice,
//! with what was ordered and to the cent, and the stock is right to the piece.
//!
//! `cargo run -p messaging --release --example checkout -- --orders 1000 --kills 5`

#![allow(clippy::print_stdout)] // A person reads what an example says.

mod stage;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use devstack::eventually;
use messaging::transaction::{self, HandlerError, Output, Record, TransactionConfig};
use serde::{Deserialize, Serialize};
use stage::{Broker, Crew};

/// Until all is done, on a busy machine.
const DONE_MAX: Duration = Duration::from_secs(1500);

#[derive(Parser)]
struct Arguments {
    /// Address of a broker; one is started without it.
    #[arg(long)]
    kafka: Option<String>,
    /// Payments to complete.
    #[arg(long, default_value_t = 1000)]
    orders: u32,
    /// How often a process is killed on the way.
    #[arg(long, default_value_t = 5)]
    kills: u32,
    /// Runs one service only: `checkout`, `delivery`, `inventory` or `invoices`.
    #[arg(long, requires = "member")]
    service: Option<String>,
    /// Its name among those of its service.
    #[arg(long)]
    member: Option<String>,
    /// Names the topics and groups of this run.
    #[arg(long, default_value_t = stage::tag())]
    run: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    order_id: u32,
    amount_cents: u64,
    items: BTreeMap<String, u32>,
}

impl Order {
    fn sample(order_id: u32) -> Self {
        let items = [(format!("sku-{}", order_id % 7), order_id % 3 + 1), (format!("sku-{}", order_id % 5), 1)];
        Self { order_id, amount_cents: u64::from(order_id) * 10 + 99, items: items.into() }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.service {
        Some(service) => serve(&arguments, service).await,
        None => run(&arguments).await,
    }
}

/// One service: a pure function from records to records, under a loop that does the rest.
async fn serve(arguments: &Arguments, service: &str) -> Result<()> {
    let shutdown = stage::member();
    let broker = Broker::at(arguments.kafka.clone())?;
    let topic = |name: &str| format!("{}.{name}", arguments.run);
    let (input, output) = match service {
        "checkout" => (topic("payment.completed"), topic("checkout.completed")),
        "delivery" => (topic("checkout.completed"), topic("delivery.requested")),
        "inventory" => (topic("checkout.completed"), topic("stock.reserved")),
        _ => (topic("checkout.completed"), topic("invoice.issued")),
    };
    let service = service.to_owned();
    let group = format!("{}-{service}", arguments.run);
    let member = arguments.member.as_deref().unwrap_or("0");
    let config = TransactionConfig {
        batch_records_max: 500,
        transaction_timeout: Duration::from_secs(10),
        ..TransactionConfig::new(&[&input], &group, member)
    };
    let handler = move |records: &[Record]| {
        let outputs = records.iter().map(|record| outputs_of(&service, &output, record));
        Ok(outputs.collect::<Result<Vec<_>, HandlerError>>()?.into_iter().flatten().collect())
    };
    Ok(transaction::run(&broker.settings(), config, handler, shutdown).await?)
}

fn outputs_of(service: &str, topic: &str, record: &Record) -> Result<Vec<Output>, HandlerError> {
    let order: Order = serde_json::from_slice(record.value.as_deref().unwrap_or_default())?;
    let key = order.order_id.to_string();
    Ok(match service {
        // Each item of an order is a record of its own, by the key of the goods.
        "inventory" => {
            order.items.iter().map(|(sku, quantity)| Output::new(topic, sku.clone(), quantity.to_string())).collect()
        }
        "invoices" => vec![Output::new(topic, key, order.amount_cents.to_string())],
        _ => vec![Output::new(topic, key, serde_json::to_vec(&order)?)],
    })
}

async fn run(arguments: &Arguments) -> Result<()> {
    let broker = Broker::at(arguments.kafka.clone())?;
    let topic = |name: &str| format!("{}.{name}", arguments.run);
    for name in ["payment.completed", "checkout.completed", "delivery.requested", "stock.reserved", "invoice.issued"] {
        broker.create(&topic(name), 4, &[]).await?;
    }
    let payment = |order_id: u32| (order_id.to_string(), serde_json::to_string(&Order::sample(order_id)).ok());
    broker.produce(&topic("payment.completed"), (0..arguments.orders).map(payment))?;
    println!("{} payments are completed", arguments.orders);

    let services = ["checkout/0", "checkout/1", "delivery/0", "inventory/0", "invoices/0"];
    let of_member = |name: &str| {
        let (service, member) = name.split_once('/').unwrap_or((name, "0"));
        let given = [("--kafka", broker.address.as_str()), ("--run", &arguments.run), ("--service", service)];
        let given = given.into_iter().chain([("--member", member)]);
        given.flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]).collect()
    };
    let mut crew = Crew::start(&arguments.run, services.map(of_member))?;
    let (mut kills, mut ended, mut left) = (0, 0, None);
    let logs = crew.folder().display().to_string();
    let all_done = eventually("every order is checked out, delivered, reserved and invoiced", DONE_MAX, async || {
        ended += crew.supervise().ok()?;
        let checkouts = broker.consumed(&topic("payment.completed"), &format!("{}-checkout", arguments.run)).ok()?;
        let due = i64::from(kills + 1) * checkouts.1 / i64::from(arguments.kills + 1);
        if kills < arguments.kills && checkouts.0 >= due.min(checkouts.1 - 1) {
            crew.kill_any().ok()?;
            kills += 1;
            match kills {
                1 => crew.join(of_member("checkout/guest")).ok()?,
                last if last == arguments.kills => left = Some(crew.leave().await),
                _ => {}
            }
        }
        if checkouts.0 < checkouts.1 || kills < arguments.kills {
            return None;
        }
        let is_there = |name: &str, records: usize| Some(broker.read(&topic(name)).ok()?.len() >= records);
        let items = (0..arguments.orders).map(|order_id| Order::sample(order_id).items.len()).sum();
        let orders = arguments.orders as usize;
        let all = is_there("delivery.requested", orders)? && is_there("invoice.issued", orders)?;
        (all && is_there("stock.reserved", items)?).then_some(())
    });
    all_done.await.with_context(|| format!("logs in {logs}"))?;
    drop(crew);
    println!("{kills} processes were killed, {ended} ended by themselves and were started anew");
    if let Some(left) = left {
        left.with_context(|| format!("logs in {logs}"))?;
        println!("a guest joined and left");
    }
    check(arguments, &broker).with_context(|| format!("logs in {logs}"))
}

/// Compares what the topics hold with what the payments ask for.
fn check(arguments: &Arguments, broker: &Broker) -> Result<()> {
    let read = |name: &str| broker.read(&format!("{}.{name}", arguments.run));
    for name in ["checkout.completed", "delivery.requested", "invoice.issued"] {
        let mut seen = BTreeSet::new();
        for record in read(name)? {
            let (order_id, value) = (record.key.parse::<u32>()?, record.value.context("a value")?);
            ensure!(seen.insert(order_id), "{name}: order {order_id} stands twice");
            let sample = Order::sample(order_id);
            let is_right = match name {
                "invoice.issued" => value.parse::<u64>()? == sample.amount_cents,
                _ => serde_json::from_str::<Order>(&value)? == sample,
            };
            ensure!(is_right, "{name}: {value} instead of {sample:?}");
        }
        let all = (0..arguments.orders).collect::<BTreeSet<u32>>();
        ensure!(seen == all, "{name}: {} of {} orders", seen.len(), all.len());
    }
    let (mut reserved, mut wanted) = (BTreeMap::<String, u32>::new(), BTreeMap::<String, u32>::new());
    for record in read("stock.reserved")? {
        *reserved.entry(record.key).or_default() += record.value.context("a quantity")?.parse::<u32>()?;
    }
    for (sku, quantity) in (0..arguments.orders).flat_map(|order_id| Order::sample(order_id).items) {
        *wanted.entry(sku).or_default() += quantity;
    }
    ensure!(reserved == wanted, "reserved {reserved:?}, wanted {wanted:?}");
    println!("each of {} orders has one checkout, one delivery, one invoice; stock is right", arguments.orders);
    Ok(())
}
