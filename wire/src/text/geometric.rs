//! point, lseg, box, line, circle, path and polygon (`geo_ops.c`).

use super::ValueError;
use super::cursor::Cursor;
use super::float::write_f64;

type Result = std::result::Result<(), ValueError>;

/// Bytes of a point in a path or polygon.
const POINT_LEN: usize = 16;

pub(crate) fn point(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    out.push(b'(');
    write_f64(out, value.f64()?);
    out.push(b',');
    write_f64(out, value.f64()?);
    out.push(b')');
    Ok(())
}

pub(crate) fn r#box(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    point(out, value)?;
    out.push(b',');
    point(out, value)
}

pub(crate) fn lseg(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    out.push(b'[');
    r#box(out, value)?;
    out.push(b']');
    Ok(())
}

pub(crate) fn line(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    for before in [b'{', b',', b','] {
        out.push(before);
        write_f64(out, value.f64()?);
    }
    out.push(b'}');
    Ok(())
}

pub(crate) fn circle(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    out.push(b'<');
    point(out, value)?;
    out.push(b',');
    write_f64(out, value.f64()?);
    out.push(b'>');
    Ok(())
}

/// `path_send`: whether it is closed, and its points.
pub(crate) fn path(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    let closed = value.u8()? != 0;
    out.push(if closed { b'(' } else { b'[' });
    points(out, value)?;
    out.push(if closed { b')' } else { b']' });
    Ok(())
}

pub(crate) fn polygon(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    out.push(b'(');
    points(out, value)?;
    out.push(b')');
    Ok(())
}

fn points(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    let count = usize::try_from(value.i32()?).map_err(|_| value.malformed("negative length"))?;
    if count > value.remaining() / POINT_LEN {
        return Err(value.malformed("truncated"));
    }
    for index in 0..count {
        if index > 0 {
            out.push(b',');
        }
        point(out, value)?;
    }
    Ok(())
}
