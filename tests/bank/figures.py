#!/usr/bin/env python3
"""The report of the example `bank`, computed by other means than its own: `figures.py FILE allow|refuse`.

The files `*.json` beside this one were made with it; the tests compare.
"""

import csv
import gzip
import json
import sys
from decimal import Decimal


def report(path, refuse):
    opened = gzip.open if path.endswith(".gz") else open
    balance, negative, refused = {}, set(), []
    types, months = {}, {}
    accepted = 0
    with opened(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            account, amount, kind = int(row["account_id"]), Decimal(row["amount"]), row["type"]
            month = row["date"][:7]
            if account not in balance:
                balance[account] = Decimal()
                months.setdefault(month, [0, Decimal(), Decimal(), 0])[3] += 1
            credit = kind == "PRIJEM"
            if refuse and not credit and amount > balance[account]:
                refused.append(amount)
                continue
            accepted += 1
            balance[account] += amount if credit else -amount
            if balance[account] < 0:
                negative.add(account)
            total = types.setdefault(kind, [0, Decimal()])
            total[0] += 1
            total[1] += amount
            total = months.setdefault(month, [0, Decimal(), Decimal(), 0])
            total[0] += 1
            total[1 if credit else 2] += amount
    return {
        "commands": accepted + len(refused),
        "accepted": accepted,
        "refused": len(refused),
        "refused_czk": czk(sum(refused, Decimal())),
        "accounts": len(balance),
        "postings": accepted,
        "balance_czk": czk(sum(balance.values(), Decimal())),
        "by_type": {key: {"count": n, "czk": czk(sum_)} for key, (n, sum_) in sorted(types.items())},
        "by_month": {
            key: {"postings": n, "credits_czk": czk(plus), "debits_czk": czk(minus), "opened": new}
            for key, (n, plus, minus, new) in sorted(months.items())
        },
        "ever_negative": sorted(negative),
    }


def czk(amount):
    return f"{amount:.2f}"


if __name__ == "__main__":
    print(json.dumps(report(sys.argv[1], sys.argv[2] == "refuse"), indent=1))
