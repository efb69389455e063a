"""Puts deliveries without end, from several threads, and prints the key of each that is confirmed."""

import sys
from itertools import count
from threading import Thread

from bot.jobs.inbox import Delivery, Inbox
from bot.jobs.migration import opened


def main(url, start):
    inbox, numbers = Inbox(opened(url)), count(int(start))

    def send():
        for number in numbers:
            inbox.put([Delivery(key=str(number), source="hub", body=b"x" * 5000)])
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()

    threads = [Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main(*sys.argv[1:])
