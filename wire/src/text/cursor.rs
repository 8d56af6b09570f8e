//! A cursor over the bytes of one value.

use super::{Form, ValueError};

/// Reads fields of a value in the byte order of its form.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    form: Form,
    type_name: &'static str,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8], form: Form, type_name: &'static str) -> Self {
        Cursor { rest: bytes, form, type_name }
    }

    #[cold]
    pub(crate) fn malformed(&self, problem: &'static str) -> ValueError {
        ValueError::Malformed { type_name: self.type_name, problem }
    }

    pub(crate) fn type_name(&self) -> &'static str {
        self.type_name
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], ValueError> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or_else(|| self.malformed("truncated"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// What comes before the next NUL, which is skipped.
    pub(crate) fn until_nul(&mut self) -> Result<&'a [u8], ValueError> {
        let len = self.rest.iter().position(|byte| *byte == 0);
        let text = self.take(len.ok_or_else(|| self.malformed("truncated"))?)?;
        self.take(1)?;
        Ok(text)
    }

    /// The next bytes, in the order that they have here.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ValueError> {
        let (taken, rest) =
            self.rest.split_first_chunk::<N>().ok_or_else(|| self.malformed("truncated"))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// The next bytes, most significant first.
    fn big_endian<const N: usize>(&mut self) -> Result<[u8; N], ValueError> {
        let mut bytes = self.array::<N>()?;
        if self.form == Form::Native {
            bytes.reverse();
        }
        Ok(bytes)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ValueError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, ValueError> {
        Ok(u16::from_be_bytes(self.big_endian()?))
    }

    pub(crate) fn i16(&mut self) -> Result<i16, ValueError> {
        Ok(i16::from_be_bytes(self.big_endian()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ValueError> {
        Ok(u32::from_be_bytes(self.big_endian()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, ValueError> {
        Ok(i32::from_be_bytes(self.big_endian()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ValueError> {
        Ok(u64::from_be_bytes(self.big_endian()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, ValueError> {
        Ok(i64::from_be_bytes(self.big_endian()?))
    }

    pub(crate) fn f32(&mut self) -> Result<f32, ValueError> {
        Ok(f32::from_bits(self.u32()?))
    }

    pub(crate) fn f64(&mut self) -> Result<f64, ValueError> {
        Ok(f64::from_bits(self.u64()?))
    }

    /// A value with its length before it; -1 stands for NULL.
    pub(crate) fn measured(&mut self) -> Result<Option<&'a [u8]>, ValueError> {
        match self.i32()? {
            -1 => Ok(None),
            len => {
                let len = usize::try_from(len).map_err(|_| self.malformed("negative length"))?;
                self.take(len).map(Some)
            }
        }
    }

    pub(crate) fn finish(&self) -> Result<(), ValueError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed("bytes left over")) }
    }
}
