//! What a command would do to a connection that others share.

/// What may become of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// It travels with everybody's.
    Shared {
        /// It changes nothing, so that it may be sent again where its reply was lost.
        repeatable: bool,
    },
    /// It may wait for something that others do, and would hold up everybody's.
    Blocks,
    /// It changes the state of the connection; the text says what to do instead.
    Refused(&'static str),
}

/// The rule for a command, by its name in upper case and its arguments.
pub fn rule<A: AsRef<[u8]>>(name: &[u8], arguments: &[A]) -> Rule {
    match name {
        b"CLIENT" if changes_the_client(arguments) => Rule::Refused("a connection is set up by its client"),
        b"SCRIPT" if is(arguments.first(), b"DEBUG") => Rule::Refused("use redis-cli"),
        b"XREAD" | b"XREADGROUP" if arguments.iter().any(|argument| is(Some(argument), b"BLOCK")) => Rule::Blocks,
        name => rule_of_name(name),
    }
}

/// The rule for a command whose arguments make no difference.
pub const fn rule_of_name(name: &[u8]) -> Rule {
    match name {
        b"SELECT" => Rule::Refused("make a client with the database in its URL"),
        b"AUTH" => Rule::Refused("make a client with the credentials in its URL"),
        b"HELLO" | b"RESET" => Rule::Refused("a connection is set up by its client"),
        b"QUIT" => Rule::Refused("use close()"),
        b"MULTI" | b"EXEC" | b"DISCARD" => Rule::Refused("use multi()"),
        b"WATCH" | b"UNWATCH" => Rule::Refused("use eval(), which is atomic"),
        b"SUBSCRIBE" | b"SSUBSCRIBE" => Rule::Refused("use subscribe()"),
        b"PSUBSCRIBE" => Rule::Refused("use psubscribe()"),
        b"UNSUBSCRIBE" | b"SUNSUBSCRIBE" | b"PUNSUBSCRIBE" => Rule::Refused("use unsubscribe() of the subscription"),
        b"MONITOR" | b"SYNC" | b"PSYNC" | b"REPLCONF" => Rule::Refused("use redis-cli"),
        b"READONLY" | b"READWRITE" | b"ASKING" => Rule::Refused("which node is asked is decided by its client"),
        b"WAIT" | b"WAITAOF" => Rule::Refused("it is about the writes of one connection, and these are everybody's"),
        b"BLPOP" | b"BRPOP" | b"BRPOPLPUSH" | b"BLMOVE" | b"BLMPOP" | b"BZPOPMIN" | b"BZPOPMAX" | b"BZMPOP" => {
            Rule::Blocks
        }
        _ => Rule::Shared { repeatable: only_reads(name) },
    }
}

fn is<A: AsRef<[u8]>>(argument: Option<&A>, name: &[u8]) -> bool {
    argument.is_some_and(|argument| argument.as_ref().eq_ignore_ascii_case(name))
}

fn changes_the_client<A: AsRef<[u8]>>(arguments: &[A]) -> bool {
    let changing: [&[u8]; 7] = [b"REPLY", b"TRACKING", b"CACHING", b"SETNAME", b"SETINFO", b"NO-EVICT", b"NO-TOUCH"];
    changing.iter().any(|name| is(arguments.first(), name))
}

/// Commands that change nothing.
const fn only_reads(name: &[u8]) -> bool {
    matches!(
        name,
        b"BITCOUNT"
            | b"BITFIELD_RO"
            | b"BITPOS"
            | b"DBSIZE"
            | b"DUMP"
            | b"ECHO"
            | b"EXISTS"
            | b"EXPIRETIME"
            | b"GEODIST"
            | b"GEOHASH"
            | b"GEOPOS"
            | b"GEORADIUSBYMEMBER_RO"
            | b"GEORADIUS_RO"
            | b"GEOSEARCH"
            | b"GET"
            | b"GETBIT"
            | b"GETRANGE"
            | b"HEXISTS"
            | b"HGET"
            | b"HGETALL"
            | b"HKEYS"
            | b"HLEN"
            | b"HMGET"
            | b"HRANDFIELD"
            | b"HSCAN"
            | b"HSTRLEN"
            | b"HVALS"
            | b"INFO"
            | b"KEYS"
            | b"LCS"
            | b"LINDEX"
            | b"LLEN"
            | b"LPOS"
            | b"LRANGE"
            | b"MGET"
            | b"PEXPIRETIME"
            | b"PFCOUNT"
            | b"PING"
            | b"PTTL"
            | b"RANDOMKEY"
            | b"SCAN"
            | b"SCARD"
            | b"SDIFF"
            | b"SINTER"
            | b"SINTERCARD"
            | b"SISMEMBER"
            | b"SMEMBERS"
            | b"SMISMEMBER"
            | b"SORT_RO"
            | b"SRANDMEMBER"
            | b"SSCAN"
            | b"STRLEN"
            | b"SUBSTR"
            | b"SUNION"
            | b"TIME"
            | b"TTL"
            | b"TYPE"
            | b"XINFO"
            | b"XLEN"
            | b"XPENDING"
            | b"XRANGE"
            | b"XREAD"
            | b"XREVRANGE"
            | b"ZCARD"
            | b"ZCOUNT"
            | b"ZDIFF"
            | b"ZINTER"
            | b"ZINTERCARD"
            | b"ZLEXCOUNT"
            | b"ZMSCORE"
            | b"ZRANDMEMBER"
            | b"ZRANGE"
            | b"ZRANGEBYLEX"
            | b"ZRANGEBYSCORE"
            | b"ZRANK"
            | b"ZREVRANGE"
            | b"ZREVRANGEBYLEX"
            | b"ZREVRANGEBYSCORE"
            | b"ZREVRANK"
            | b"ZSCAN"
            | b"ZSCORE"
            | b"ZUNION"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(command: &[&str]) -> Rule {
        rule(command[0].as_bytes(), &command[1..])
    }

    #[test]
    fn only_what_changes_nothing_is_repeatable() {
        for name in ["GET", "HGETALL", "MGET", "PING", "SCAN", "ZSCORE", "XREAD"] {
            assert_eq!(of(&[name, "k"]), Rule::Shared { repeatable: true }, "{name}");
        }
        for name in ["SET", "INCR", "GETDEL", "GETEX", "EVAL", "FOO", "SPOP", "XREADGROUP", "PUBLISH"] {
            assert_eq!(of(&[name, "k"]), Rule::Shared { repeatable: false }, "{name}");
        }
    }

    #[test]
    fn what_belongs_to_a_connection_is_refused() {
        for command in
            [&["SELECT", "1"][..], &["CLIENT", "tracking", "on"], &["CLIENT", "Reply", "OFF"], &["WATCH", "k"]]
        {
            assert!(matches!(of(command), Rule::Refused(_)), "{command:?}");
        }
        assert_eq!(of(&["CLIENT", "LIST"]), Rule::Shared { repeatable: false });
        assert_eq!(of(&["CLIENT"]), Rule::Shared { repeatable: false });
        assert_eq!(of(&["SCRIPT", "LOAD", "return 1"]), Rule::Shared { repeatable: false });
    }

    #[test]
    fn what_waits_for_others_blocks() {
        assert_eq!(of(&["BLPOP", "k", "0"]), Rule::Blocks);
        assert_eq!(of(&["XREAD", "count", "1", "block", "0", "STREAMS", "k", "$"]), Rule::Blocks);
        assert_eq!(of(&["XREAD", "COUNT", "1", "STREAMS", "k", "0"]), Rule::Shared { repeatable: true });
    }
}
