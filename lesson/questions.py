"""Guess, then run: the lesson's questions to its reader."""


class Guesses:
    """Compares guesses with the truth, and remembers which were right."""

    def __init__(self):
        self.right = {}  # by question: True, False, or None where nothing was guessed

    def check(self, question: str, guess, truth, why: str, tolerance: float = 0) -> None:
        """Print the truth and, in a line, why it is so; None is no guess.

        A number is right if it is at most tolerance away from the truth, a word if it is the same.
        """
        if guess is None:
            right = None
        elif isinstance(truth, str):
            right = str(guess).strip().lower() == truth.lower()
        else:
            right = abs(float(guess) - truth) <= tolerance
        self.right[question] = right
        verdict = {None: "", True: "Yes. ", False: f"Not {guess}. "}[right]
        shown = truth if isinstance(truth, str) else f"{truth:,}"
        print(f"{verdict}{question}: {shown}. {why}")

    def score(self) -> None:
        """Print how many guesses were right, and which were not."""
        made = {question: right for question, right in self.right.items() if right is not None}
        print(f"{sum(made.values())} of {len(made)} guesses were right; {len(self.right) - len(made)} were not made.")
        for question in made:
            if not made[question]:
                print(f"- look again: {question}")
