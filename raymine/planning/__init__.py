"""What a round will take: a sample of it is mined, and the seconds of each step are read off what drives them."""
