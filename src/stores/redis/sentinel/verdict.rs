//! Which of several sentinels is right. No I/O.

use super::report::{Refusal, Report};
use crate::redis_url::Address;
use crate::stores::redis::origin::Seat;

/// Reasons that one error tells.
const MOST_REASONS: usize = 3;

/// Length of one of them.
const LONGEST_REASON: usize = 120;

/// Where the servers of a deployment are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub primary: Address,
    /// Of the failover that made it the primary.
    pub epoch: u64,
    pub replicas: Vec<Address>,
}

impl Found {
    pub fn seat(&self) -> Seat {
        Seat { address: self.primary.clone(), term: self.epoch }
    }

    pub fn is_at(&self, seat: &Seat) -> bool {
        self.primary == seat.address && self.epoch == seat.term
    }
}

/// What follows from `reports` of some of `known` sentinels; `None` if they are no reason to believe anything else than
/// what `believed` says.
///
/// Each failover has a higher epoch than the one before, and a sentinel that was cut off from the others has not heard of the
/// latest. So the highest epoch is right, and a lower one than is believed only where most say so: they were set up anew.
pub fn conclude(reports: &[Report], known: usize, believed: Option<&Found>) -> Option<Found> {
    let epoch = reports.iter().map(|report| report.epoch).max()?;
    if believed.is_some_and(|believed| epoch < believed.epoch) && reports.len() * 2 <= known {
        return None;
    }
    let latest: Vec<&Report> = reports.iter().filter(|report| report.epoch == epoch).collect();
    let voices = |address: &Address| latest.iter().filter(|report| report.primary == *address).count();
    // Of two names of one server the one that is in use stays.
    let stays = believed.map(|believed| &believed.primary).filter(|primary| voices(primary) > 0);
    // The first that was heard, of those with as many voices.
    let most = || latest.iter().rev().map(|report| &report.primary).max_by_key(|address| voices(address));
    let primary = stays.or_else(most)?.clone();
    // One that has just been started knows of few yet.
    let replicas = latest.iter().filter(|report| report.primary == primary).map(|report| &report.replicas);
    let replicas = replicas.max_by_key(|replicas| replicas.len())?.clone();
    Some(Found { primary, epoch, replicas })
}

/// One sentence on why no sentinel tells where the primary `name` is.
pub fn explain(name: &str, refusals: &[(Address, Refusal)]) -> String {
    let mut reasons = Vec::new();
    let mut unknown = false;
    for (address, refusal) in refusals {
        match refusal {
            Refusal::UnknownName => unknown = true,
            Refusal::Password(text) => {
                return format!(
                    "the sentinel at {address} wants another password ({text}); set REDIS_SENTINEL_PASSWORD"
                );
            }
            Refusal::NoSentinel => {
                return format!(
                    "{address} is no sentinel; name the sentinels, or use redis: for a server that has none"
                );
            }
            Refusal::Other(reason) => reasons.push(format!("{address}: {}", shortened(reason))),
        }
    }
    if unknown {
        return format!("the sentinels know no primary named {name:?}; set REDIS_MASTER_NAME or ?master=");
    }
    let more = reasons.len().saturating_sub(MOST_REASONS);
    reasons.truncate(MOST_REASONS);
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    format!("no sentinel can be asked ({})", reasons.join("; "))
}

fn shortened(reason: &str) -> String {
    let reason = reason.trim_end_matches('.');
    match reason.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}...", &reason[..end]),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str) -> Address {
        Address::Tcp { host: name.to_owned(), port: 1 }
    }

    fn says(primary: &str, epoch: u64) -> Report {
        Report { primary: at(primary), epoch, others: Vec::new(), replicas: Vec::new() }
    }

    fn believed(primary: &str, epoch: u64) -> Found {
        Found { primary: at(primary), epoch, replicas: Vec::new() }
    }

    fn primary(reports: &[Report], known: usize, believed: Option<&Found>) -> Option<String> {
        conclude(reports, known, believed).map(|found| found.primary.to_string())
    }

    #[test]
    fn the_latest_failover_wins_however_few_have_heard_of_it() {
        let split = [says("old", 4), says("new", 5), says("old", 4)];
        assert_eq!(primary(&split, 3, None).as_deref(), Some("new:1"));
        assert_eq!(primary(&split, 3, Some(&believed("old", 4))).as_deref(), Some("new:1"));
    }

    #[test]
    fn a_sentinel_that_was_cut_off_changes_nothing_alone() {
        let known = believed("new", 5);
        assert_eq!(primary(&[says("old", 4)], 3, Some(&known)), None);
        assert_eq!(primary(&[says("old", 4)], 2, Some(&known)), None);
        assert_eq!(primary(&[], 3, Some(&known)), None);
    }

    #[test]
    fn sentinels_that_were_set_up_anew_are_believed_when_most_say_so() {
        let known = believed("former", 5);
        assert_eq!(primary(&[says("other", 0), says("former", 5)], 3, Some(&known)).as_deref(), Some("former:1"));
        assert_eq!(primary(&[says("other", 0), says("other", 0)], 3, Some(&known)).as_deref(), Some("other:1"));
    }

    #[test]
    fn two_names_of_one_server_do_not_take_turns() {
        let names = [says("10.0.0.1", 2), says("redis-1", 2), says("redis-1", 2)];
        assert_eq!(primary(&names, 3, Some(&believed("10.0.0.1", 2))).as_deref(), Some("10.0.0.1:1"));
        assert_eq!(primary(&names, 3, None).as_deref(), Some("redis-1:1"), "more voices");
        assert_eq!(primary(&names[..2], 3, None).as_deref(), Some("10.0.0.1:1"), "the first");
    }

    #[test]
    fn the_replicas_are_those_of_the_one_that_knows_most() {
        let knows =
            |replicas: &[&str]| Report { replicas: replicas.iter().map(|name| at(name)).collect(), ..says("p", 1) };
        let found = conclude(&[knows(&["a"]), knows(&["a", "b"]), says("p", 1)], 3, None).unwrap();
        assert_eq!(found.replicas, [at("a"), at("b")]);
    }

    #[test]
    fn an_error_is_one_sentence_that_names_the_cure() {
        let other = |reason: &str| Refusal::Other(reason.to_owned());
        let said = |refusals: &[Refusal]| {
            explain("mine", &refusals.iter().map(|refusal| (at("s"), refusal.clone())).collect::<Vec<_>>())
        };
        assert!(
            said(&[other("refused"), Refusal::UnknownName])
                .contains("no primary named \"mine\"; set REDIS_MASTER_NAME")
        );
        let password = said(&[Refusal::UnknownName, Refusal::Password("NOAUTH".to_owned())]);
        assert!(password.contains("at s:1 wants another password (NOAUTH); set REDIS_SENTINEL_PASSWORD"));
        assert!(said(&[Refusal::NoSentinel]).contains("s:1 is no sentinel"));
        let long = said(&[other(&"ü".repeat(500)), other("refused."), other("late"), other("x"), other("y")]);
        assert!(long.ends_with("...; s:1: refused; s:1: late; and 2 more)") && long.len() < 600, "{long}");
    }
}
