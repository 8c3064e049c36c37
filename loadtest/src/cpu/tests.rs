use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;

/// A shell whose child burns CPU and says so when it is done, and which then stays until its input ends.
fn busy(script: &str) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

fn after_line(child: &mut Child) -> Duration {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    used(i32::try_from(child.id()).unwrap()).unwrap()
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    child.wait().unwrap();
}

const BURN: &str = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";

#[test]
fn a_child_that_was_reaped_still_counts() {
    let mut child = busy(&format!("( {BURN} ); echo reaped; read end"));
    let with_reaped = after_line(&mut child);
    let own = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    end(child);
    assert!(with_reaped >= Duration::from_millis(50), "{with_reaped:?}");
    let own: Vec<&str> = own.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let own_ticks: u64 = own[11].parse::<u64>().unwrap() + own[12].parse::<u64>().unwrap();
    assert!(own_ticks * 10 < 50, "the work was the child's: {own_ticks} ticks");
}

#[test]
fn a_child_that_lives_counts() {
    let mut child = busy(&format!("( {BURN}; echo burnt; read end ) <&0; true"));
    let with_living = after_line(&mut child);
    end(child);
    assert!(with_living >= Duration::from_millis(50), "{with_living:?}");
}

#[test]
fn a_name_with_brackets_is_no_trouble() {
    let stat = parse("7 (a) b) S 3 7 7 0 -1 0 0 0 0 0 10 20 30 40 20 0 1 0 5").unwrap();
    assert_eq!(stat, Stat { parent: 3, own_ticks: 30, reaped_ticks: 70 });
}

#[test]
fn the_peak_is_that_of_the_process() {
    let block = std::hint::black_box(vec![1u8; 64 << 20]);
    let peak = peak_rss_bytes(i32::try_from(std::process::id()).unwrap()).unwrap();
    assert!(peak > block.len() as u64, "{peak}");
    assert!(used(i32::MAX).is_err() && peak_rss_bytes(i32::MAX).is_err());
}
