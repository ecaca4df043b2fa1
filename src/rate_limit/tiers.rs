//! The limits of the API by tier, and whose count a request goes to.

use super::address::Client;
use super::arguments;
use crate::limit::Limit;

const MINUTE: u64 = 60_000_000;

/// What whoever has no tier, or one that is not known, may do.
const FREE: Limit = Limit { quota: 100, window: MINUTE };

/// `RATE_LIMITS` of the JavaScript face.
pub const TIERS: [(&str, Limit); 3] = [
    ("free", FREE),
    ("pro", Limit { quota: 1000, window: MINUTE }),
    ("enterprise", Limit { quota: 10_000, window: MINUTE }),
];

/// The limit of a tier.
pub fn limit(tier: Option<&str>) -> Limit {
    TIERS.iter().find(|(name, _)| Some(*name) == tier).map_or(FREE, |(_, limit)| *limit)
}

/// The key of a request: of the user, or else of the address, which is then looked for. An id of any length will do.
pub fn key(user: Option<&str>, client: impl FnOnce() -> Client) -> String {
    match user {
        Some(user) if !user.is_empty() => arguments::shortened(["user:", user].concat()),
        _ => client().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nobody() -> Client {
        Client::Unknown
    }

    #[test]
    fn each_tier_has_its_limit_and_all_others_are_free() {
        let quota = |tier| limit(tier).quota;
        assert_eq!([Some("free"), Some("pro"), Some("enterprise")].map(quota), [100, 1000, 10_000]);
        for other in [None, Some(""), Some("Pro"), Some("pro "), Some("__proto__"), Some("starter")] {
            assert_eq!(quota(other), 100, "{other:?}");
        }
        assert!(TIERS.iter().all(|(_, limit)| limit.window == MINUTE));
    }

    #[test]
    fn a_user_counts_before_the_address() {
        let no_look = || -> Client { panic!("the address was looked for") };
        assert_eq!(key(Some("7"), no_look), "user:7");
        assert_eq!(key(Some("ip:unknown"), no_look), "user:ip:unknown");
        assert_eq!(key(None, nobody), "ip:unknown");
        assert_eq!(key(Some(""), || Client::V4([192, 0, 2, 1].into())), "ip:192.0.2.1");
    }

    #[test]
    fn an_id_of_any_length_is_one_key() {
        assert_eq!(key(Some(&"x".repeat(251)), nobody).len(), 256);
        let long = key(Some(&"x".repeat(252)), nobody);
        assert_eq!(long.len(), 64);
        assert_ne!(long, key(Some(&"x".repeat(100_000)), nobody));
    }

    proptest! {
        #[test]
        fn users_and_addresses_never_share_a_key(users in prop::array::uniform2("\\PC{1,300}"), bits in any::<u32>()) {
            let keys = users.each_ref().map(|user| key(Some(user), nobody));
            prop_assert_eq!(users[0] == users[1], keys[0] == keys[1]);
            prop_assert!(keys.iter().all(|key| *key != Client::V4(bits.into()).to_string()));
        }
    }
}
