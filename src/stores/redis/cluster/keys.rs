//! Where a command has its keys, and what is to be done with one that has none or several.

use super::command::{Arguments, Command, Word};
use super::join::Join;

/// How a command reaches those who can execute it. Places are those of arguments; the name is at 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Anybody can.
    Anywhere,
    /// Who has the key at this place. More keys may follow; that they belong together is judged by the server.
    Key(usize),
    /// Who has the keys that follow the number at this place.
    Counted(usize),
    /// The same of a script, which is judged here, because the server would have it run until it meets the other key.
    Script(usize),
    /// Who has the key that follows `STREAMS`, which is at this place or later: groups may have that name.
    Streams(usize),
    /// Every primary, each for itself.
    EveryPrimary(Join),
    /// One primary after the other, by a cursor.
    Scan,
    /// Every argument is a key, or every second if they have values; each is executed by who has it.
    PerSlot { values: bool, join: PerSlot },
}

/// How the replies for keys of different slots become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PerSlot {
    /// All are the same.
    Same,
    Sum,
    /// One item a key, in the order of keys.
    Items,
}

impl Way {
    pub fn of(name: &[u8], command: &Command<'_>) -> Self {
        match name {
            b"MGET" => Self::PerSlot { values: false, join: PerSlot::Items },
            b"MSET" => Self::PerSlot { values: true, join: PerSlot::Same },
            b"DEL" | b"UNLINK" | b"EXISTS" | b"TOUCH" => Self::PerSlot { values: false, join: PerSlot::Sum },
            b"EVAL" | b"EVALSHA" | b"EVAL_RO" | b"EVALSHA_RO" | b"FCALL" | b"FCALL_RO" => Self::Script(2),
            b"SCAN" => Self::Scan,
            b"KEYS" => Self::EveryPrimary(Join::Concatenate),
            b"DBSIZE" => Self::EveryPrimary(Join::Sum),
            b"FLUSHDB" | b"FLUSHALL" => Self::EveryPrimary(Join::First),
            b"BITOP" | b"PFDEBUG" => Self::Key(2),
            b"MIGRATE" => Self::Key(3),
            b"BLMPOP" | b"BZMPOP" => Self::Counted(2),
            b"LMPOP" | b"MSETEX" | b"SINTERCARD" | b"ZDIFF" | b"ZINTER" | b"ZINTERCARD" | b"ZMPOP" | b"ZUNION" => {
                Self::Counted(1)
            }
            b"XREAD" => Self::Streams(1),
            b"XREADGROUP" => Self::Streams(4),
            b"CONFIG" | b"DEBUG" | b"FUNCTION" | b"MEMORY" | b"OBJECT" | b"SCRIPT" | b"XGROUP" | b"XINFO" => {
                Self::of_subcommand(name, &Word::of(command.argument(1)))
            }
            name if has_no_key(name) => Self::Anywhere,
            _ => Self::Key(1),
        }
    }

    fn of_subcommand(name: &[u8], subcommand: &[u8]) -> Self {
        match (name, subcommand) {
            (b"CONFIG", b"RESETSTAT" | b"REWRITE" | b"SET")
            | (b"FUNCTION", b"DELETE" | b"FLUSH" | b"LOAD" | b"RESTORE")
            | (b"SCRIPT", b"FLUSH" | b"LOAD") => Self::EveryPrimary(Join::First),
            (b"SCRIPT", b"EXISTS") => Self::EveryPrimary(Join::Least),
            (b"DEBUG", b"OBJECT") | (b"MEMORY", b"USAGE") | (b"OBJECT" | b"XGROUP" | b"XINFO", _) => Self::Key(2),
            _ => Self::Anywhere,
        }
    }

    /// The keys that have to be together for the command to be executed, as far as they are told apart here: of most
    /// commands the first alone. None where the arguments make no sense, which the server will say.
    pub fn keys<'a>(&self, command: &Command<'a>) -> impl Iterator<Item = &'a [u8]> {
        let mut arguments = command.arguments();
        let (count, step) = match self {
            Self::Anywhere | Self::EveryPrimary(_) | Self::Scan => (0, 1),
            Self::Key(place) => {
                skip(&mut arguments, *place);
                (1, 1)
            }
            Self::Counted(place) | Self::Script(place) => {
                skip(&mut arguments, *place);
                (number(arguments.next()), 1)
            }
            Self::Streams(place) => {
                skip(&mut arguments, *place);
                let found = arguments.any(|argument| argument.eq_ignore_ascii_case(b"STREAMS"));
                (usize::from(found), 1)
            }
            Self::PerSlot { values, .. } => {
                skip(&mut arguments, 1);
                (usize::MAX, 1 + usize::from(*values))
            }
        };
        arguments.step_by(step).take(count)
    }
}

fn skip(arguments: &mut Arguments<'_>, count: usize) {
    for _ in 0..count {
        arguments.next();
    }
}

/// The number of keys; 0 if it is none.
fn number(argument: Option<&[u8]>) -> usize {
    argument.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()).unwrap_or(0)
}

/// Commands that are about a server, or about nothing; those above left out.
fn has_no_key(name: &[u8]) -> bool {
    matches!(
        name,
        b"" | b"ACL"
            | b"ASKING"
            | b"AUTH"
            | b"BGREWRITEAOF"
            | b"BGSAVE"
            | b"CLIENT"
            | b"CLUSTER"
            | b"COMMAND"
            | b"DISCARD"
            | b"ECHO"
            | b"EXEC"
            | b"FAILOVER"
            | b"HELLO"
            | b"INFO"
            | b"LASTSAVE"
            | b"LATENCY"
            | b"LOLWUT"
            | b"MODULE"
            | b"MONITOR"
            | b"MULTI"
            | b"PFSELFTEST"
            | b"PING"
            | b"PSUBSCRIBE"
            | b"PSYNC"
            | b"PUBLISH"
            | b"PUBSUB"
            | b"PUNSUBSCRIBE"
            | b"QUIT"
            | b"RANDOMKEY"
            | b"READONLY"
            | b"READWRITE"
            | b"REPLCONF"
            | b"REPLICAOF"
            | b"RESET"
            | b"ROLE"
            | b"SAVE"
            | b"SELECT"
            | b"SHUTDOWN"
            | b"SLAVEOF"
            | b"SLOWLOG"
            | b"SUBSCRIBE"
            | b"SWAPDB"
            | b"SYNC"
            | b"TIME"
            | b"UNSUBSCRIBE"
            | b"UNWATCH"
            | b"WAIT"
            | b"WAITAOF"
    )
}

/// True for commands that only read, by key, and keep no cursor that another server would not know. Names are in upper case.
pub fn may_read_a_replica(name: &[u8]) -> bool {
    matches!(
        name,
        b"BITCOUNT"
            | b"BITFIELD_RO"
            | b"BITPOS"
            | b"DUMP"
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
            | b"HSTRLEN"
            | b"HVALS"
            | b"LCS"
            | b"LINDEX"
            | b"LLEN"
            | b"LPOS"
            | b"LRANGE"
            | b"MGET"
            | b"PEXPIRETIME"
            | b"PTTL"
            | b"SCARD"
            | b"SDIFF"
            | b"SINTER"
            | b"SINTERCARD"
            | b"SISMEMBER"
            | b"SMEMBERS"
            | b"SMISMEMBER"
            | b"SORT_RO"
            | b"SRANDMEMBER"
            | b"STRLEN"
            | b"SUBSTR"
            | b"SUNION"
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
            | b"ZSCORE"
            | b"ZUNION"
    )
}
