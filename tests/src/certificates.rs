//! Real certificates, made by openssl for one test.

use std::path::Path;
use std::process::Command;

/// Makes `ca` (an authority), `server` (its certificate for `localhost`), `client` (for `only_cert`) and `other` (another
/// authority), each as `.pem` and `.key`, in a folder.
pub fn make(dir: &Path) {
    let script = r#"
set -e
quiet() { openssl "$@" 2>/dev/null; }
authority() { quiet req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$1" -keyout "$1.key" -out "$1.pem"; }
signed() {
  quiet req -new -newkey rsa:2048 -nodes -subj "/CN=$2" -keyout "$1.key" -out "$1.csr"
  printf 'subjectAltName=DNS:%s\n' "$2" > "$1.ext"
  quiet x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile "$1.ext" -out "$1.pem" "$3"
}
authority ca; authority other
signed server localhost -sha384; signed client only_cert -sha256
"#;
    let output =
        Command::new("sh").arg("-c").arg(script).current_dir(dir).output().expect("openssl");
    assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
}
