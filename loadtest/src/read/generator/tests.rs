use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;

use super::super::mix::{Path, Wanted};
use super::*;
use crate::dataset::{Keys, Recipe, document_text, site_id};

const SITES: u64 = 50;

fn model() -> Model {
    let keys = Keys::Uniform;
    let recipe =
        Recipe { events: SITES, sites: SITES, unrelated_percent: 0, keys, site_apps: 5, partitions: 1, seed: 1 };
    let Ok(table) = recipe.play(|_| Ok::<_, std::convert::Infallible>(()));
    Model::new(table.sites, Default::default())
}

/// What a server does with the path of a request: status and body; it may take its time.
type Answers = dyn Fn(&str) -> (u16, String) + Send + Sync;

/// A server on a free port, a thread per connection; they end with their connections.
fn serve(answers: Arc<Answers>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let answers = answers.clone();
            thread::spawn(move || converse(stream.unwrap(), &*answers));
        }
    });
    address
}

fn converse(mut stream: TcpStream, answers: &Answers) {
    stream.set_nodelay(true).unwrap();
    let reader = BufReader::new(stream.try_clone().unwrap());
    let mut path = String::new();
    for line in reader.lines().map_while(Result::ok) {
        match line.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()) {
            Some(found) => path = found.to_owned(),
            None if line.is_empty() => {
                let (status, body) = answers(&path);
                if status == 0 {
                    return;
                }
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                // In two pieces, so that an answer is not always there at once.
                let (one, other) = answer.split_at(answer.len() / 2);
                if stream.write_all(one.as_bytes()).and_then(|()| stream.write_all(other.as_bytes())).is_err() {
                    return;
                }
            }
            None => {}
        }
    }
}

/// The table as a server would have it.
fn documents() -> Arc<Answers> {
    let model = model();
    let known: std::collections::HashMap<String, String> = (0..SITES)
        .map(|site| (format!("/v1/sites/{}/installed-apps", site_id(site)), document_text(model.site(site))))
        .collect();
    Arc::new(move |path| known.get(path).map_or((404, "{}".to_owned()), |document| (200, document.clone())))
}

fn run(address: SocketAddr, connections: usize, schedule: Schedule) -> Result<Tally> {
    let mix = "site=100".parse().unwrap();
    let wanted =
        Wanted { mix, keys: Keys::Zipf, sites: SITES, unknown_percent: 20, tagged_percent: 0, batch_sites: 1, seed: 2 };
    let model = model();
    Generator::new(&model, Asks::new(wanted), schedule, connect(address, connections)?, 3)?.run()
}

fn schedule(rate: u64, warm_up_ms: u64, measured_ms: u64) -> Schedule {
    Schedule::new(Instant::now(), rate, Duration::from_millis(warm_up_ms), Duration::from_millis(measured_ms))
}

#[test]
fn every_request_of_the_schedule_is_sent_answered_and_judged() {
    let tally = run(serve(documents()), 4, schedule(20_000, 10, 100)).unwrap();
    assert_eq!((tally.all().len(), tally.of(Path::Site).len(), tally.lateness().len()), (2_000, 2_000, 2_000));
    assert_eq!((tally.errors, tally.wrong.into_lines()), (0, vec![]));
}

#[test]
fn wrong_answers_and_refusals_are_told_apart() {
    let right = documents();
    let refused = serve(Arc::new(|_| (503, String::new())));
    let tally = run(refused, 2, schedule(20_000, 0, 10)).unwrap();
    assert_eq!((tally.all().len(), tally.errors, tally.wrong.into_lines().len()), (200, 200, 0));
    // One byte of every document is another; only the compared ones show it.
    let wrong = serve(Arc::new(move |path| {
        let (status, body) = right(path);
        (status, body.replacen("INSTALLED", "INSTALLEX", 1))
    }));
    let lines = run(wrong, 2, schedule(20_000, 0, 10)).unwrap().wrong.into_lines();
    assert!(lines.len() > 1 && lines[0].contains("not the model's"), "{lines:?}");
}

/// Coordinated omission: a closed loop would send one slow request here, and then fast ones.
#[test]
fn a_server_that_stalls_makes_late_every_request_that_is_due_meanwhile() {
    let schedule = schedule(1_000, 0, 200);
    let (until, right) = (schedule.window().1 + Duration::from_millis(100), documents());
    let stalling = serve(Arc::new(move |path| {
        // Nobody sends: this is the stall itself.
        let (_held, never) = mpsc::channel::<()>();
        never.recv_timeout(until.saturating_duration_since(Instant::now())).unwrap_err();
        right(path)
    }));
    let tally = run(stalling, 1, schedule).unwrap();
    assert_eq!((tally.all().len(), tally.errors), (200, 0));
    // To the three digits of the histogram.
    assert!(tally.all().min() >= 99_900, "the fastest took {} µs from its due moment", tally.all().min());
    assert!(tally.all().max() >= 299_000, "the first was due when the stall began: {} µs", tally.all().max());
    assert!(crate::compare::refuse_rate(1_000.0, schedule.rate_achieved(tally.last_sent)).is_err(), "the run is void");
}

#[test]
fn a_server_that_breaks_off_voids_the_run() {
    let error = run(serve(Arc::new(|_| (0, String::new()))), 1, schedule(1_000, 0, 10)).err().unwrap();
    assert!(format!("{error:#}").contains("closed a connection"), "{error:#}");
}
