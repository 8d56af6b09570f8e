//! inet, cidr (`network.c`, `inet_net_ntop.c`), macaddr and macaddr8.

use super::ValueError;
use super::cursor::Cursor;
use super::simple::{push_hex, push_u64};

type Result = std::result::Result<(), ValueError>;

// Address families as the send functions write them, whatever the system's own numbers are.
const FAMILY_INET: u8 = 2;
const FAMILY_INET6: u8 = 3;

/// Groups of an IPv6 address.
const GROUPS: usize = 8;

/// `08:00:2b:01:02:03`.
pub(crate) fn macaddr(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    push_hex_pairs(out, &value.array::<6>()?);
    Ok(())
}

pub(crate) fn macaddr8(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    push_hex_pairs(out, &value.array::<8>()?);
    Ok(())
}

fn push_hex_pairs(out: &mut Vec<u8>, bytes: &[u8]) {
    for (index, byte) in bytes.iter().enumerate() {
        if index > 0 {
            out.push(b':');
        }
        push_hex(out, &[*byte]);
    }
}

/// The netmask is written unless it is that of a single address.
pub(crate) fn inet(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    address(out, value, false)
}

/// The netmask is always written.
pub(crate) fn cidr(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    address(out, value, true)
}

/// `network_send`: family, bits of the netmask, whether it is a cidr, length, address.
fn address(out: &mut Vec<u8>, value: &mut Cursor<'_>, always_mask: bool) -> Result {
    let [family, bits, _is_cidr, len] = value.array()?;
    let full = match (family, len) {
        (FAMILY_INET, 4) => {
            push_ipv4(out, value.array()?);
            32
        }
        (FAMILY_INET6, 16) => {
            push_ipv6(out, value.array()?);
            128
        }
        _ => return Err(value.malformed("unknown address family or wrong length")),
    };
    if bits > full {
        return Err(value.malformed("netmask out of range"));
    }
    if always_mask || bits != full {
        out.push(b'/');
        push_u64(out, bits.into());
    }
    Ok(())
}

fn push_ipv4(out: &mut Vec<u8>, bytes: [u8; 4]) {
    for (index, byte) in bytes.into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        push_u64(out, byte.into());
    }
}

/// The longest run of two or more zero groups, the first of equals, as (start, length).
fn longest_zero_run(groups: &[u16; GROUPS]) -> (usize, usize) {
    let (mut best, mut run) = ((0, 0), (0, 0));
    for (index, group) in groups.iter().enumerate() {
        run = if *group == 0 { (run.0, run.1 + 1) } else { (index + 1, 0) };
        if run.1 > best.1 {
            best = run;
        }
    }
    if best.1 >= 2 { best } else { (GROUPS, 0) }
}

fn push_ipv6(out: &mut Vec<u8>, bytes: [u8; 16]) {
    let mut groups = [0u16; GROUPS];
    for (group, pair) in groups.iter_mut().zip(bytes.chunks_exact(2)) {
        *group = pair.iter().fold(0, |high, low| (high << 8) | u16::from(*low));
    }
    let (run, run_len) = longest_zero_run(&groups);
    // an IPv4 address inside, compatible (but not ::1) or mapped, is written as one
    let embeds_ipv4 = run == 0
        && (run_len == 6
            || (run_len == 7 && groups[7] != 1)
            || (run_len == 5 && groups[5] == 0xFFFF));
    for (index, group) in groups.into_iter().enumerate() {
        if (run..run + run_len).contains(&index) {
            if index == run {
                out.push(b':');
            }
            continue;
        }
        if index > 0 {
            out.push(b':');
        }
        if index == 6 && embeds_ipv4 {
            let [.., a, b, c, d] = bytes;
            return push_ipv4(out, [a, b, c, d]);
        }
        push_group(out, group);
    }
    if run + run_len == GROUPS && run_len > 0 {
        out.push(b':');
    }
}

/// Lower-case hexadecimal without leading zeros.
fn push_group(out: &mut Vec<u8>, group: u16) {
    let start = out.len();
    push_hex(out, &group.to_be_bytes());
    let zeros = (group.leading_zeros() / 4).min(3) as usize;
    out.drain(start..start + zeros);
}
