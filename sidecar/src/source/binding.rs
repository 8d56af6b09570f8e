//! `tls-server-end-point` channel binding (RFC 5929): the hash of the server's certificate, with the
//! hash function of the certificate's own signature.

use ring::digest;

const TAG_SEQUENCE: u8 = 0x30;
const TAG_OID: u8 = 0x06;

/// The binding for a certificate in DER; `None` when its signature has no hash that we know.
pub(super) fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = hash_of(signature_oid(certificate)?)?;
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// MD5 and SHA-1 are replaced by SHA-256, as the RFC says.
fn hash_of(oid: &[u8]) -> Option<&'static digest::Algorithm> {
    const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01]; // 1.2.840.113549.1.1
    const ECDSA: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04]; // 1.2.840.10045.4
    match (oid.strip_prefix(RSA), oid.strip_prefix(ECDSA)) {
        (Some([0x04 | 0x05 | 0x0B]), _) | (_, Some([0x01] | [0x03, 0x02])) => Some(&digest::SHA256),
        (Some([0x0C]), _) | (_, Some([0x03, 0x03])) => Some(&digest::SHA384),
        (Some([0x0D]), _) | (_, Some([0x03, 0x04])) => Some(&digest::SHA512),
        _ => None,
    }
}

/// `Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { OID, … }, … }`
fn signature_oid(certificate: &[u8]) -> Option<&[u8]> {
    let (outer, _) = element(certificate, TAG_SEQUENCE)?;
    let (_, rest) = element(outer, TAG_SEQUENCE)?;
    let (algorithm, _) = element(rest, TAG_SEQUENCE)?;
    element(algorithm, TAG_OID).map(|(oid, _)| oid)
}

/// Content of the DER element that `bytes` starts with, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
        // more than four bytes of length is no certificate
        if digits.is_empty() || digits.len() > 4 {
            return None;
        }
        (digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit)), rest)
    };
    (found == tag).then(|| rest.split_at_checked(len))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(oid: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, body: &[u8]| {
            let len = body.len();
            let mut out = vec![tag];
            if len < 0x80 {
                out.push(len as u8);
            } else {
                out.extend([0x82, (len >> 8) as u8, len as u8]);
            }
            out.extend(body);
            out
        };
        let algorithm = wrap(TAG_SEQUENCE, &[wrap(TAG_OID, oid), vec![5, 0]].concat());
        wrap(TAG_SEQUENCE, &[wrap(TAG_SEQUENCE, &[7; 300]), algorithm, vec![3, 1, 0]].concat())
    }

    #[test]
    fn the_hash_is_the_signatures() {
        let rsa = |last| vec![0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, last];
        let ecdsa = |last| vec![0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, last];
        for (oid, len) in [
            (rsa(0x05), Some(32)),
            (rsa(0x0B), Some(32)),
            (rsa(0x0C), Some(48)),
            (rsa(0x0D), Some(64)),
            (ecdsa(2), Some(32)),
            (ecdsa(3), Some(48)),
            (vec![0x2B, 0x65, 0x70], None), // Ed25519
        ] {
            let der = certificate(&oid);
            assert_eq!(tls_server_end_point(&der).map(|hash| hash.len()), len, "{oid:?}");
        }
    }

    #[test]
    fn no_bytes_panic() {
        let der = certificate(&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 2]);
        for len in 0..der.len() - 10 {
            assert_eq!(tls_server_end_point(&der[..len]), None, "{len}");
        }
        assert_eq!(tls_server_end_point(&[0x30, 0x88, 1, 1, 1, 1, 1, 1, 1, 1]), None);
    }
}
