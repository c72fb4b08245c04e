"""What others do instead of a round's protocol, to be measured in the same harness: their logic in code of ours."""
