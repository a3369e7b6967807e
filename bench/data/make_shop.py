#!/usr/bin/env python3
"""Makes shop.sql, the dump that `make demo` loads: a small mail-order shop, as `.dump` writes it.

The data is made up from a counter, so every run gives the same bytes:  python3 make_shop.py > shop.sql
"""

import sqlite3
import sys

SCHEMA = """
CREATE TABLE customers (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  email TEXT NOT NULL UNIQUE COLLATE NOCASE,
  name TEXT NOT NULL,
  city TEXT,
  joined TEXT NOT NULL CHECK (joined LIKE '____-__-__')
);
CREATE TABLE products (
  sku TEXT PRIMARY KEY,
  title TEXT NOT NULL,
  price REAL NOT NULL CHECK (price > 0),
  stock INTEGER NOT NULL DEFAULT 0,
  label BLOB
) WITHOUT ROWID;
CREATE TABLE orders (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  customer INTEGER NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
  placed TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  reference TEXT,
  note TEXT
);
CREATE TABLE order_items (
  order_id INTEGER NOT NULL REFERENCES orders (id) ON DELETE CASCADE,
  line INTEGER NOT NULL,
  sku TEXT NOT NULL REFERENCES products (sku),
  quantity INTEGER NOT NULL CHECK (quantity > 0),
  price REAL NOT NULL,
  total REAL GENERATED ALWAYS AS (quantity * price) VIRTUAL,
  PRIMARY KEY (order_id, line)
) WITHOUT ROWID;
CREATE TABLE stock_moves (sku TEXT NOT NULL, change INTEGER NOT NULL, reason TEXT NOT NULL);
CREATE INDEX orders_by_customer ON orders (customer, placed);
CREATE INDEX orders_by_reference ON orders (reference) WHERE reference IS NOT NULL;
CREATE INDEX items_by_sku ON order_items (sku);
CREATE INDEX customers_by_city ON customers (city COLLATE NOCASE, lower(name));
CREATE TRIGGER item_takes_stock AFTER INSERT ON order_items BEGIN
  UPDATE products SET stock = stock - new.quantity WHERE sku = new.sku;
  INSERT INTO stock_moves (sku, change, reason) VALUES (new.sku, -new.quantity, 'order ' || new.order_id);
END;
CREATE TRIGGER orders_keep_their_customer BEFORE UPDATE OF customer ON orders WHEN new.customer <> old.customer BEGIN
  SELECT RAISE(ABORT, 'an order stays with its customer; cancel it instead');
END;
CREATE VIEW order_totals AS
  SELECT o.id, c.name, o.placed, count(*) AS lines, round(sum(i.total), 2) AS total
  FROM orders o JOIN customers c ON c.id = o.customer JOIN order_items i ON i.order_id = o.id
  GROUP BY o.id;
CREATE VIEW best_sellers AS
  SELECT p.sku, p.title, sum(i.quantity) AS sold
  FROM products p JOIN order_items i ON i.sku = p.sku GROUP BY p.sku ORDER BY sold DESC;
"""

FIRST = "Ada Björn Chloé Dana Emeka Farida Goran Hana Íñigo Jun Kofi Lena Mio Noor Olga Priya Quinn Rosa Søren Tuấn".split()
LAST = "O'Neill Müller García Novák Okafor Sato Silva Haddad Kowalski Jensen Rossi Tanaka Nguyễn Fischer".split()
CITIES = ["Oslo", "São Paulo", "Kraków", "Lagos", "Kyoto", "Winnipeg", "Galway", "Pune", None]
NOUNS = "Kettle Lamp Notebook Bicycle Chair Teapot Backpack Umbrella Clock Blanket".split()
KINDS = ["small", "blue", "12\" wide", "second-hand; as new", "folding", "'classic'", "for two"]
NOTES = [None, None, "Leave at the door", "It's a gift;\nplease wrap it", 'Ring twice ("loudly")', "ünïcödé ✓ 東京"]


class Numbers:
    """A linear congruential generator (the constants of POSIX drand48)."""

    def __init__(self):
        self.state = 20240229

    def below(self, limit):
        self.state = (self.state * 0x5DEECE66D + 11) % (1 << 48)
        return (self.state >> 17) % limit

    def one_of(self, items):
        return items[self.below(len(items))]


def fill(db):
    numbers = Numbers()
    for n in range(1, 401):
        first, last = numbers.one_of(FIRST), numbers.one_of(LAST)
        joined = f"20{15 + n % 10}-{1 + numbers.below(12):02}-{1 + numbers.below(28):02}"
        email = f"{first}.{last}.{n}@example.com".lower().replace("'", "")
        db.execute("INSERT INTO customers (email, name, city, joined) VALUES (?, ?, ?, ?)",
                   (email, f"{first} {last}", numbers.one_of(CITIES), joined))
    skus = []
    for n in range(200):
        skus.append(f"{numbers.one_of(NOUNS)[:3].upper()}-{1000 + n}")
        label = bytes(numbers.below(256) for _ in range(8)) if n % 5 == 0 else None
        db.execute("INSERT INTO products (sku, title, price, stock, label) VALUES (?, ?, ?, ?, ?)",
                   (skus[-1], f"{numbers.one_of(NOUNS)}, {numbers.one_of(KINDS)}", round(numbers.below(20000) / 100 + 0.99, 2),
                    100000, label))
    for order in range(1, 801):
        placed = f"2025-{1 + order // 70:02}-{1 + order % 28:02} {numbers.below(24):02}:{numbers.below(60):02}:00"
        db.execute("INSERT INTO orders (customer, placed, note) VALUES (?, ?, ?)",
                   (1 + numbers.below(400), placed, numbers.one_of(NOTES)))
        for line in range(1, 2 + numbers.below(4)):
            db.execute("INSERT INTO order_items (order_id, line, sku, quantity, price) VALUES (?, ?, ?, ?, ?)",
                       (order, line, numbers.one_of(skus), 1 + numbers.below(3), round(numbers.below(20000) / 100 + 0.99, 2)))
    # Deleted rows leave gaps, as in any database that has been in use.
    db.execute("DELETE FROM orders WHERE id % 97 = 0")


def quoted(value):
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"X'{value.hex().upper()}'"
    if isinstance(value, (int, float)):
        return repr(value)
    return "'" + value.replace("'", "''") + "'"


def dump(db, out):
    """As the shell's `.dump`: tables with their rows first, then indexes, triggers and views."""
    out.write("PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n")
    tables = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid")
    for name, sql in tables.fetchall():
        out.write(sql + ";\n")
        stored = [row[1] for row in db.execute(f'PRAGMA table_xinfo("{name}")') if row[6] == 0]
        columns = ",".join(stored)
        listed = f"({columns})" if name == "order_items" else ""
        for row in db.execute(f'SELECT {columns} FROM "{name}"'):
            out.write(f"INSERT INTO {name}{listed} VALUES({','.join(quoted(value) for value in row)});\n")
    out.write("DELETE FROM sqlite_sequence;\n")
    for row in db.execute("SELECT name, seq FROM sqlite_sequence ORDER BY name"):
        out.write(f"INSERT INTO sqlite_sequence VALUES({','.join(quoted(value) for value in row)});\n")
    rest = "SELECT sql FROM sqlite_schema WHERE type <> 'table' AND sql IS NOT NULL ORDER BY rowid"
    for (sql,) in db.execute(rest):
        out.write(sql + ";\n")
    out.write("COMMIT;\n")


def main():
    sys.stdout.reconfigure(encoding="utf-8")
    db = sqlite3.connect(":memory:")
    db.execute("PRAGMA foreign_keys = ON")
    db.executescript(SCHEMA)
    fill(db)
    dump(db, sys.stdout)


if __name__ == "__main__":
    main()
