"""`ray` with precedence: its `start --head` makes a cluster of one node."""

from tests.bulk.executors.ray.ground import hurry

if __name__ == "__main__":
    hurry()
    from ray.scripts.scripts import main

    main()
