//! A small shop: its tables, and people who use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;
use postgres::Client;

/// Made on the source and on the standby.
pub const SCHEMA: &str = "
CREATE TYPE order_status AS ENUM ('new', 'paid', 'shipped', 'returned');
CREATE TABLE customers (
    id bigint PRIMARY KEY, email text NOT NULL UNIQUE, name varchar(80) NOT NULL,
    address jsonb, newsletter boolean NOT NULL DEFAULT false, since timestamptz NOT NULL DEFAULT now());
CREATE TABLE products (
    sku varchar(20) PRIMARY KEY, name text NOT NULL, price numeric(12,2) NOT NULL,
    weight double precision, tags text[] NOT NULL DEFAULT '{}', manual text, stock integer NOT NULL);
CREATE TABLE orders (
    id uuid PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers, status order_status NOT NULL,
    total numeric(14,2) NOT NULL, placed timestamptz NOT NULL DEFAULT now(), wanted date);
CREATE TABLE order_lines (
    order_id uuid REFERENCES orders ON DELETE CASCADE, line smallint, sku varchar(20) NOT NULL,
    quantity integer NOT NULL, price numeric(12,2) NOT NULL, PRIMARY KEY (order_id, line));
CREATE TABLE carts (
    customer_id bigint, sku varchar(20), quantity integer NOT NULL, PRIMARY KEY (customer_id, sku));
CREATE TABLE page_views (
    id bigint PRIMARY KEY, customer_id bigint, path text NOT NULL, seen timestamp NOT NULL, took real);
";

const STOCK: &str = "
INSERT INTO customers SELECT i, 'customer' || i || '@example.com', 'Customer ' || i,
    jsonb_build_object('city', 'City ' || i % 50, 'zip', i), i % 3 = 0 FROM generate_series(1, 2000) i;
INSERT INTO products SELECT 'SKU-' || i, 'Product ' || i, (i % 997) + 0.99, i / 7.0,
    ARRAY['shop', 'group ' || i % 9, NULL], repeat(md5(i::text), 300), 1000 FROM generate_series(1, 500) i;
INSERT INTO page_views SELECT -i, i % 2000, '/product/' || i % 500,
    timestamp '2025-01-01' + i * interval '0.1234 s', i / 3.0 FROM generate_series(1, 300000) i;
";

/// Fills the shelves; people have looked at them before.
pub fn stock(client: &mut Client) {
    client.batch_execute(STOCK).expect("fill the shop");
}

/// How many people use the shop at once, each on a connection of its own.
const SHOPPERS: u64 = 3;

/// The pause of a shopper between two transactions, so that the machine keeps up with three database
/// servers, the sidecar and the shop on two cores.
const PAUSE: Duration = Duration::from_micros(1500);

/// What the shop has done so far.
#[derive(Default)]
pub struct Done {
    pub transactions: AtomicU64,
    stop: AtomicBool,
}

/// The open shop.
pub struct Shop {
    pub done: Arc<Done>,
    shoppers: Vec<JoinHandle<()>>,
}

impl Shop {
    /// Lets the shoppers in.
    pub fn open(mut connect: impl FnMut() -> Client) -> Shop {
        let done = Arc::new(Done::default());
        let shopper = |number| {
            let (client, done) = (connect(), Arc::clone(&done));
            thread::spawn(move || shop(number, client, &done))
        };
        let shoppers = (0..SHOPPERS).map(shopper).collect();
        Shop { done, shoppers }
    }

    /// Sends the shoppers home; what they began is committed.
    pub fn close(self) {
        self.done.stop.store(true, Ordering::Relaxed);
        for shopper in self.shoppers {
            shopper.join().expect("a shopper");
        }
    }
}

fn shop(number: u64, mut client: Client, done: &Done) {
    let mut rng = Rng::with_seed(number);
    while !done.stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let statements = transaction(&mut rng, number);
        client.batch_execute(&statements).unwrap_or_else(|e| panic!("{statements}: {e:?}"));
        done.transactions.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE.saturating_sub(start.elapsed()));
    }
}

/// One transaction. Shoppers touch different customers and products, so that they never deadlock.
fn transaction(rng: &mut Rng, number: u64) -> String {
    let own = |limit: u64, n: u64| 1 + number + (n % ((limit - SHOPPERS) / SHOPPERS)) * SHOPPERS;
    let customer = own(2000, rng.u64(..));
    let product = own(500, rng.u64(..));
    let body = match rng.u32(0..100) {
        0..35 => order(rng, customer, product),
        35..55 => format!(
            "INSERT INTO carts VALUES ({customer}, 'SKU-{product}', 1)
             ON CONFLICT (customer_id, sku) DO UPDATE SET quantity = carts.quantity + 1"
        ),
        55..70 => format!(
            "UPDATE orders SET status = 'shipped', wanted = now()::date + 3
             WHERE id = (SELECT id FROM orders WHERE customer_id = {customer} LIMIT 1)"
        ),
        70..78 => format!(
            "UPDATE products SET stock = stock - 1, price = price * 1.01 WHERE sku = 'SKU-{product}'"
        ),
        78..84 => format!(
            "DELETE FROM orders WHERE id = (SELECT id FROM orders WHERE customer_id = {customer} LIMIT 1)"
        ),
        84..90 => format!("DELETE FROM carts WHERE customer_id = {customer}"),
        90..95 => renumber(rng, customer),
        _ => second_thoughts(customer, product),
    };
    format!("BEGIN; {body}; COMMIT")
}

fn order(rng: &mut Rng, customer: u64, product: u64) -> String {
    let (quantity, lines) = (rng.u32(1..9), rng.u32(1..5));
    let id = format!("{:032x}", rng.u128(..));
    format!(
        "INSERT INTO orders VALUES ('{id}', {customer}, 'new', {quantity} * 9.99);
         INSERT INTO order_lines SELECT '{id}', i, 'SKU-{product}', {quantity}, 9.99 FROM generate_series(1, {lines}) i;
         UPDATE orders SET status = 'paid' WHERE id = '{id}'"
    )
}

/// A key that changes: the lines of an order get other numbers.
fn renumber(rng: &mut Rng, customer: u64) -> String {
    let by = rng.u32(10..20);
    format!(
        "UPDATE order_lines SET line = line + {by} WHERE line < 1000
         AND order_id = (SELECT id FROM orders WHERE customer_id = {customer} LIMIT 1)"
    )
}

/// A savepoint that is rolled back: what was in it must arrive nowhere.
fn second_thoughts(customer: u64, product: u64) -> String {
    format!(
        "UPDATE customers SET newsletter = NOT newsletter WHERE id = {customer};
         SAVEPOINT thought; DELETE FROM carts WHERE customer_id = {customer};
         UPDATE products SET stock = -1 WHERE sku = 'SKU-{product}'; ROLLBACK TO thought;
         UPDATE customers SET name = name || '.' WHERE id = {customer} AND length(name) < 70"
    )
}

/// One transaction of many rows.
pub fn big_transaction(client: &mut Client, rows: u64) {
    let statement = format!(
        "INSERT INTO page_views SELECT i, i % 2000, '/product/' || i % 500,
             timestamp '2026-01-01' + i * interval '0.1234 s', i / 3.0 FROM generate_series(1, {rows}) i"
    );
    client.batch_execute(&statement).expect("the large transaction");
}

/// Empties the carts, and puts something in one.
pub fn truncate(client: &mut Client) {
    let statement = "BEGIN; TRUNCATE carts; INSERT INTO carts VALUES (0, 'SKU-1', 7); COMMIT";
    client.batch_execute(statement).expect("truncate");
}

/// Products get other numbers; their long manuals, stored out of line, stay as they are.
pub fn change_keys(client: &mut Client) {
    let statement =
        "UPDATE products SET sku = 'NEW-' || substr(sku, 5) WHERE sku IN ('SKU-499', 'SKU-500')";
    client.batch_execute(statement).expect("change keys");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use rsrepl_tests::postgres::Postgres;
    use rsrepl_tests::scratch::Scratch;
    use rsrepl_tests::{compare, wait};

    /// PostgreSQL accepts what the shop does, and something is in every table.
    #[test]
    fn the_shop_works() {
        let scratch = Scratch::new("shop");
        let server = Postgres::start(&scratch, "server", "");
        server.execute("postgres", super::SCHEMA);
        let mut client = server.client("postgres");
        super::stock(&mut client);
        let shop = super::Shop::open(|| server.client("postgres"));
        super::big_transaction(&mut client, 1_000);
        super::truncate(&mut client);
        super::change_keys(&mut client);
        wait::until(Duration::from_secs(60), "shoppers shop", || {
            shop.done.transactions.load(Ordering::Relaxed) > 500
        });
        shop.close();
        for table in compare::tables(&mut client) {
            let rows = server.value("postgres", &format!("SELECT count(*) FROM {table}"));
            assert_ne!(rows.as_deref(), Some("0"), "{table} is empty");
        }
    }
}
