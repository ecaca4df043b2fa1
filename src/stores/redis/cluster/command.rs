//! Reads commands from the bytes in which they are sent ([`crate::redis_request::encode`]), where they lie.

/// The longest name of a command or subcommand that is told apart.
const LONGEST: usize = 24;

/// A command within the bytes of a request.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    /// Arguments, name included, and what follows the command.
    rest: &'a [u8],
    count: usize,
    /// Bytes before the arguments.
    head: usize,
}

impl<'a> Command<'a> {
    /// The first command; `None` if there is none.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (count, rest) = line(bytes, b'*')?;
        Some(Self { rest, count, head: bytes.len() - rest.len() })
    }

    /// Its arguments; the first is its name.
    pub fn arguments(&self) -> Arguments<'a> {
        Arguments { rest: self.rest, left: self.count }
    }

    /// An argument; the name is at 0.
    pub fn argument(&self, place: usize) -> Option<&'a [u8]> {
        self.arguments().nth(place)
    }

    /// The number of its arguments, name included.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The length of its bytes; `None` if they are not whole.
    pub fn length(&self) -> Option<usize> {
        let mut arguments = self.arguments();
        while arguments.next().is_some() {}
        (arguments.left == 0).then(|| self.head + self.rest.len() - arguments.rest.len())
    }

    pub fn name(&self) -> Word {
        Word::of(self.argument(0))
    }
}

/// The arguments of a command. It ends early where the bytes are not whole.
#[derive(Debug, Clone)]
pub struct Arguments<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Arguments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let left = self.left.checked_sub(1)?;
        let (length, rest) = line(self.rest, b'$')?;
        let argument = rest.get(..length)?;
        (self.rest, self.left) = (rest.get(length..)?.strip_prefix(b"\r\n")?, left);
        Some(argument)
    }
}

/// A number after its kind, and what follows the line.
fn line(bytes: &[u8], kind: u8) -> Option<(usize, &[u8])> {
    let (first, mut rest) = bytes.split_first()?;
    let mut number = 0usize;
    while let Some((digit @ b'0'..=b'9', after)) = rest.split_first() {
        number = number.checked_mul(10)?.checked_add(usize::from(digit - b'0'))?;
        rest = after;
    }
    Some((number, rest.strip_prefix(b"\r\n")?)).filter(|_| *first == kind)
}

/// A word of Redis in upper case, whatever it was written in; nothing, if it is longer than any.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Word {
    pub fn of(argument: Option<&[u8]>) -> Self {
        let mut word = Self { bytes: [0; LONGEST], length: 0 };
        if let Some(argument) = argument.filter(|argument| argument.len() <= LONGEST) {
            word.length = argument.len();
            let bytes = &mut word.bytes[..argument.len()];
            bytes.copy_from_slice(argument);
            bytes.make_ascii_uppercase();
        }
        word
    }
}

impl std::ops::Deref for Word {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_request::encode;
    use bytes::BytesMut;
    use proptest::prelude::*;

    fn encoded(commands: &[Vec<Vec<u8>>]) -> BytesMut {
        let mut bytes = BytesMut::new();
        commands.iter().for_each(|command| encode(&mut bytes, command));
        bytes
    }

    fn decoded(mut bytes: &[u8]) -> Option<Vec<Vec<Vec<u8>>>> {
        let mut commands = Vec::new();
        while !bytes.is_empty() {
            let command = Command::read(bytes)?;
            let arguments: Vec<_> = command.arguments().map(<[u8]>::to_vec).collect();
            assert!(arguments.len() <= command.count());
            bytes = &bytes[command.length()?..];
            commands.push(arguments);
        }
        Some(commands)
    }

    #[test]
    fn a_name_is_in_upper_case() {
        let bytes = encoded(&[vec![b"gEt".to_vec(), b"k".to_vec()]]);
        let command = Command::read(&bytes).unwrap();
        assert_eq!(&*command.name(), b"GET");
        assert_eq!((command.argument(1), command.argument(2), command.count()), (Some(b"k".as_slice()), None, 2));
        assert_eq!(&*Word::of(Some(&[b'x'; 25])), b"");
        assert_eq!(&*Word::of(None), b"");
    }

    proptest! {
        #[test]
        fn reads_what_was_written(
            commands in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..6), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = encoded(&commands);
            prop_assert_eq!(decoded(&bytes), Some(commands));
            // What is cut off is noticed, unless it is whole commands.
            let cut = cut.index(bytes.len());
            prop_assert!(decoded(&bytes[..cut]).is_none_or(|some| encoded(&some) == bytes[..cut]));
        }

        #[test]
        fn nothing_makes_it_panic(bytes in "[*$0-9\r\n]{0,40}") {
            decoded(bytes.as_bytes());
        }
    }
}
