//! Arithmetic from text: numbers, `+ - * / % ^`, and parentheses. Nothing else, so nothing can be run by it.

/// The longest text.
const BYTES_MAX: usize = 1000;
/// How deep parentheses, signs and powers may nest.
const DEPTH_MAX: usize = 64;

/// Why a text has no value. It goes to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// Longer than allowed.
    #[error("an expression has at most {BYTES_MAX} bytes")]
    TooLong,
    /// Nested deeper than allowed.
    #[error("an expression nests at most {DEPTH_MAX} deep")]
    TooDeep,
    /// Something that is not arithmetic.
    #[error(
        "unexpected `{found}` at byte {at}; numbers, + - * / % ^ and parentheses are understood"
    )]
    Unexpected {
        /// What stands there.
        found: char,
        /// Where.
        at: usize,
    },
    /// It ends where a number was to come.
    #[error("the expression ends too early")]
    Ended,
    /// Division by zero, or too large.
    #[error("the result is not a finite number")]
    NotFinite,
}

/// The value of `text`.
pub(super) fn evaluate(text: &str) -> Result<f64, Error> {
    if BYTES_MAX < text.len() {
        return Err(Error::TooLong);
    }
    let mut parser = Parser { text, at: 0 };
    let value = parser.sum(0)?;
    match parser.peek() {
        Some(found) => Err(Error::Unexpected { found, at: parser.at }),
        None if value.is_finite() => Ok(value),
        None => Err(Error::NotFinite),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        trimmed.chars().next()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn sum(&mut self, depth: usize) -> Result<f64, Error> {
        let mut value = self.product(depth)?;
        loop {
            if self.take('+') {
                value += self.product(depth)?;
            } else if self.take('-') {
                value -= self.product(depth)?;
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self, depth: usize) -> Result<f64, Error> {
        let mut value = self.signed(depth)?;
        loop {
            if self.take('*') {
                value *= self.signed(depth)?;
            } else if self.take('/') {
                value /= self.signed(depth)?;
            } else if self.take('%') {
                value %= self.signed(depth)?;
            } else {
                return Ok(value);
            }
        }
    }

    /// A sign binds looser than a power: `-2^2` is -4.
    fn signed(&mut self, depth: usize) -> Result<f64, Error> {
        if DEPTH_MAX < depth {
            return Err(Error::TooDeep);
        }
        if self.take('-') {
            return Ok(-self.signed(depth + 1)?);
        }
        if self.take('+') {
            return self.signed(depth + 1);
        }
        let base = self.atom(depth)?;
        // Powers bind to the right: 2^3^2 is 2^9.
        if self.take('^') { Ok(base.powf(self.signed(depth + 1)?)) } else { Ok(base) }
    }

    fn atom(&mut self, depth: usize) -> Result<f64, Error> {
        if self.take('(') {
            let value = self.sum(depth + 1)?;
            return if self.take(')') { Ok(value) } else { Err(self.surprise()) };
        }
        match self.peek() {
            Some(c) if c.is_ascii_digit() || c == '.' => self.number(),
            _ => Err(self.surprise()),
        }
    }

    fn number(&mut self) -> Result<f64, Error> {
        let rest = &self.text[self.at..];
        let mut length = 0;
        let mut previous = ' ';
        for c in rest.chars() {
            let sign_of_exponent = (c == '+' || c == '-') && matches!(previous, 'e' | 'E');
            if !(c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E') || sign_of_exponent) {
                break;
            }
            length += c.len_utf8();
            previous = c;
        }
        let value = rest[..length].parse().map_err(|_| self.surprise())?;
        self.at += length;
        Ok(value)
    }

    fn surprise(&mut self) -> Error {
        match self.peek() {
            Some(found) => Error::Unexpected { found, at: self.at },
            None => Error::Ended,
        }
    }
}
