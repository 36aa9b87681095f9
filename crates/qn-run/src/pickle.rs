//! Python's pickles (protocols 0 to 5) as data: what a pickle would call or construct is noted, and nothing is executed.
//!
//! A pickle is a program for a machine with a stack and a memo of values to come back to. The values are kept in a list
//! and refer to each other by their places in it, as a dictionary may be filled after it was referred to. An
//! instruction makes at most one value and copies no more than its own bytes, so that memory is bounded by the pickle's
//! length. Values may refer to themselves: whoever walks them has to stop.

use std::collections::HashMap;

/// The place of a value in the list of a pickle's values.
pub type Id = usize;

/// A value, as far as it can describe a tensor, an array or its name.
#[derive(Debug, PartialEq)]
pub enum Value<'a> {
    /// An integer of at most 64 bits.
    Int(i64),
    /// A string of characters.
    Text(String),
    /// Bytes, or a string of Python 2, whose characters are bytes.
    Bytes(&'a [u8]),
    /// A module and a name in it, joined by a dot: a class or a function.
    Global(String),
    /// A tuple or a list.
    Sequence(Vec<Id>),
    /// Keys and values.
    Dictionary(Vec<(Id, Id)>),
    /// What calling `class` with the tuple `args` would give; then `items` are set in it, and its attributes from `state`.
    Object {
        /// A class or function.
        class: Id,
        /// A tuple.
        args: Id,
        /// Keys and values.
        items: Vec<(Id, Id)>,
        /// A tuple or a dictionary, if there is one.
        state: Option<Id>,
    },
    /// What the reader's program is to find by this name: a storage.
    Persistent(Id),
    /// None, a boolean, a float, a set, or an integer of more than 64 bits.
    Other,
}

/// A pickle that was read to its end.
#[derive(Debug)]
pub struct Pickle<'a> {
    values: Vec<Value<'a>>,
    /// The value that the pickle describes.
    pub root: Id,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle at the beginning of `bytes`.
    ///
    /// # Errors
    /// It is damaged, or not a pickle: in words that go on from "its pickle".
    pub fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let mut machine = Machine { bytes, ..Machine::default() };
        loop {
            let at = machine.at;
            let op = machine.byte()?;
            if op == b'.' {
                let root = machine.pop()?;
                return Ok(Self { values: machine.values, root });
            }
            if !machine.literal(op)?
                && !machine.container(op)?
                && !machine.object(op)?
                && !machine.memo(op)?
            {
                return Err(format!("has the unknown instruction {op:#04x} at byte {at}"));
            }
        }
    }

    /// A value.
    pub fn get(&self, id: Id) -> &Value<'a> {
        self.values.get(id).unwrap_or(&Value::Other)
    }

    /// A text, of Python 2 as well, or none if the value is something else.
    pub fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// Bytes, or none if the value is something else.
    pub fn bytes(&self, id: Id) -> Option<&'a [u8]> {
        if let Value::Bytes(bytes) = self.get(id) { Some(bytes) } else { None }
    }

    /// The name of a class or function.
    pub fn global(&self, id: Id) -> Option<&str> {
        if let Value::Global(name) = self.get(id) { Some(name) } else { None }
    }

    /// The entries of a tuple or list.
    pub fn sequence(&self, id: Id) -> Option<&[Id]> {
        if let Value::Sequence(entries) = self.get(id) { Some(entries) } else { None }
    }

    /// A number that counts something.
    pub fn count(&self, id: Id) -> Option<usize> {
        if let Value::Int(n) = self.get(id) { usize::try_from(*n).ok() } else { None }
    }

    /// The entries of a dictionary, or those set in an object that is one (`OrderedDict`, `defaultdict`).
    pub fn items(&self, id: Id) -> &[(Id, Id)] {
        match self.get(id) {
            Value::Dictionary(items) | Value::Object { items, .. } => items,
            _ => &[],
        }
    }
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at which a mark lies.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8], String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let piece = usize::try_from(n).ok().and_then(|n| rest.get(..n));
        let piece = piece.ok_or_else(|| "ends inside an instruction".to_owned())?;
        self.at += piece.len();
        Ok(piece)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    /// An unsigned number of `width` bytes, at most eight, the lowest first.
    fn number(&mut self, width: u64) -> Result<u64, String> {
        Ok(self.take(width)?.iter().rev().fold(0, |sum, &b| (sum << 8) | u64::from(b)))
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
        let line = String::from_utf8_lossy(self.take(end as u64)?).into_owned();
        self.take(1)?;
        Ok(line)
    }

    /// A text whose length is a number of `width` bytes.
    fn text(&mut self, width: u64) -> Result<Value<'a>, String> {
        let length = self.number(width)?;
        Ok(Value::Text(String::from_utf8_lossy(self.take(length)?).into_owned()))
    }

    /// Bytes whose length is a number of `width` bytes.
    fn raw(&mut self, width: u64) -> Result<Value<'a>, String> {
        let length = self.number(width)?;
        Ok(Value::Bytes(self.take(length)?))
    }

    /// A two's complement number whose length is a number of `width` bytes.
    fn long(&mut self, width: u64) -> Result<Value<'a>, String> {
        let length = self.number(width)?;
        let bytes = self.take(length)?;
        if bytes.len() > 8 {
            return Ok(Value::Other);
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut extended = if negative { [0xff; 8] } else { [0; 8] };
        extended.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Ok(Value::Int(i64::from_le_bytes(extended)))
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    /// The value on top, which a mark hides from whoever wants to go beneath it.
    fn pop(&mut self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = if self.stack.len() > floor { self.stack.pop() } else { None };
        top.ok_or_else(|| "takes more from its stack than there is".to_owned())
    }

    /// Everything above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or_else(|| "looks for a mark that it has not set".to_owned())?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&mut self) -> Result<&mut Value<'a>, String> {
        let id = self.pop()?;
        self.stack.push(id);
        self.values.get_mut(id).ok_or_else(|| "refers to nothing".to_owned())
    }

    fn literal(&mut self, op: u8) -> Result<bool, String> {
        let value = match op {
            b'N' | 0x88 | 0x89 | 0x8f => Value::Other,
            b'I' | b'L' => self.line()?.trim_end_matches('L').parse().map_or(Value::Other, Value::Int),
            b'J' => Value::Int(i64::from(self.number(4)? as u32 as i32)),
            b'K' => Value::Int(self.number(1)? as i64),
            b'M' => Value::Int(self.number(2)? as i64),
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'F' => self.line().map(|_| Value::Other)?,
            b'G' => self.take(8).map(|_| Value::Other)?,
            b'S' => Value::Text(self.line()?.trim_matches(['\'', '"']).to_owned()),
            b'V' => Value::Text(self.line()?),
            0x8c => self.text(1)?,
            b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            b'C' | b'U' => self.raw(1)?,
            b'B' | b'T' => self.raw(4)?,
            0x8e | 0x96 => self.raw(8)?,
            b'c' => Value::Global(format!("{}.{}", self.line()?, self.line()?)),
            b')' | b']' => Value::Sequence(Vec::new()),
            b'}' => Value::Dictionary(Vec::new()),
            _ => return Ok(false),
        };
        self.push(value);
        Ok(true)
    }

    fn container(&mut self, op: u8) -> Result<bool, String> {
        match op {
            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' | 0x90 => drop(self.pop_mark()?),
            b'2' => {
                let id = self.pop()?;
                self.stack.extend([id, id]);
            }
            b't' | b'l' => {
                let entries = self.pop_mark()?;
                self.push(Value::Sequence(entries));
            }
            0x85..=0x87 => {
                let mut entries = (0x85..=op).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
                entries.reverse();
                self.push(Value::Sequence(entries));
            }
            0x91 => {
                self.pop_mark()?;
                self.push(Value::Other);
            }
            b'd' => {
                let items = pairs(&self.pop_mark()?);
                self.push(Value::Dictionary(items));
            }
            b'a' => {
                let entry = self.pop()?;
                self.append(&[entry])?;
            }
            b'e' => {
                let entries = self.pop_mark()?;
                self.append(&entries)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => {
                let entries = self.pop_mark()?;
                self.set(&entries)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn append(&mut self, entries: &[Id]) -> Result<(), String> {
        // A list within an object is no description of a tensor.
        if let Value::Sequence(list) = self.top()? {
            list.extend(entries);
        }
        Ok(())
    }

    fn set(&mut self, entries: &[Id]) -> Result<(), String> {
        match self.top()? {
            Value::Dictionary(items) | Value::Object { items, .. } => items.extend(pairs(entries)),
            _ => return Err("sets an entry of what has none".into()),
        }
        Ok(())
    }

    fn object(&mut self, op: u8) -> Result<bool, String> {
        let (class, args) = match op {
            b'R' | 0x81 => {
                let (args, class) = (self.pop()?, self.pop()?);
                (class, args)
            }
            0x92 => {
                let (_named, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                (class, args)
            }
            b'i' | b'o' => {
                if op == b'i' {
                    self.literal(b'c')?;
                    let class = self.pop()?;
                    let mark = self.marks.last().copied().unwrap_or(0).min(self.stack.len());
                    self.stack.insert(mark, class);
                }
                let mut args = self.pop_mark()?.into_iter();
                let class = args.next().ok_or_else(|| "makes an object of no class".to_owned())?;
                self.values.push(Value::Sequence(args.collect()));
                (class, self.values.len() - 1)
            }
            b'b' => {
                let given = self.pop()?;
                if let Value::Object { state, .. } = self.top()? {
                    *state = Some(given);
                }
                return Ok(true);
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let part = |id: Id| {
                    self.values.get(id).and_then(|v| if let Value::Text(t) = v { Some(t) } else { None })
                };
                let global = match (part(module), part(name)) {
                    (Some(module), Some(name)) if module.len() + name.len() < 256 => {
                        format!("{module}.{name}")
                    }
                    _ => return Err("names a class by something that is no name".into()),
                };
                self.push(Value::Global(global));
                return Ok(true);
            }
            b'Q' => {
                let name = self.pop()?;
                self.push(Value::Persistent(name));
                return Ok(true);
            }
            _ => return Ok(false),
        };
        self.push(Value::Object { class, args, items: Vec::new(), state: None });
        Ok(true)
    }

    fn memo(&mut self, op: u8) -> Result<bool, String> {
        let key = match op {
            b'p' | b'g' => {
                let line = self.line()?;
                line.parse().map_err(|_| "has a memo's number that is none".to_owned())?
            }
            b'q' | b'h' => self.number(1)?,
            b'r' | b'j' => self.number(4)?,
            0x94 => self.memo.len() as u64,
            0x80 => {
                let protocol = self.byte()?;
                return if protocol <= 5 {
                    Ok(true)
                } else {
                    Err(format!("is of the unknown protocol {protocol}"))
                };
            }
            // The length of a frame, in which the machine itself takes no interest.
            0x95 => return self.take(8).map(|_| true),
            _ => return Ok(false),
        };
        if matches!(op, b'g' | b'h' | b'j') {
            let id = self.memo.get(&key).ok_or_else(|| "comes back to what it has not kept".to_owned())?;
            self.stack.push(*id);
        } else {
            let id = self.pop()?;
            self.stack.push(id);
            self.memo.insert(key, id);
        }
        Ok(true)
    }
}

fn pairs(entries: &[Id]) -> Vec<(Id, Id)> {
    entries.as_chunks().0.iter().map(|&[key, value]| (key, value)).collect()
}
